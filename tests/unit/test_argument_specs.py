# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each role's argument specification says what its defaults are: the same names, the same values, each of the type that is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

ROLES = Path(__file__).resolve().parents[2] / "roles"


@pytest.mark.parametrize("role", sorted(path.name for path in ROLES.iterdir() if (path / "defaults").is_dir()))
def test_the_argument_specification_has_each_default_with_its_value_and_type(role: str) -> None:
    defaults: dict[str, Any] = yaml.safe_load((ROLES / role / "defaults" / "main.yml").read_text())
    options: dict[str, Any] = yaml.safe_load((ROLES / role / "meta" / "argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
    assert sorted(options) == sorted(defaults)
    for name, option in options.items():
        # One that is worked out is known in a run only.
        if not (isinstance(defaults[name], str) and "{{" in defaults[name]):
            assert option.get("default") == defaults[name] or ("default" not in option and not defaults[name]), name
            result = ArgumentSpecValidator({name: {**option, "required": False}}).validate({name: defaults[name]})
            assert result.error_messages == [], name
            # Where it has keys of its own they are filled in.
            assert "options" in option or result.validated_parameters[name] == defaults[name], name
