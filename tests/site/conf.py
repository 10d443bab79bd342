# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings of Sphinx for `make docs`. Its source is a copy of the checkout's files, beside which antsibull-docs has written modules/."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

project = "haproxy-autoscale"
author = "The haproxy-autoscale contributors"
html_title = project

extensions = ["myst_parser", "sphinx_antsibull_ext"]
include_patterns = ["index.rst", "*.md", "docs/*.md", "roles/*/README.md", "modules/*.rst"]
# It says that there are none.
exclude_patterns = ["modules/environment_variables.rst"]
# A link to a heading is as on the code host, where test_documents.py checks it.
myst_heading_anchors = 6
# A link without a scheme or a document behind it is an error, not a guess.
myst_all_links_external = False

html_theme = "furo"
# A page of antsibull-docs has no source in the repository, so none has a button that leads to it.
html_theme_options = {"top_of_page_buttons": []}
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
# The colours of options follow the reader's choice of light or dark.
antsibull_ext_color_scheme = "default-autodark"
# "text" blocks are quoted output; what has no name here is shown as it is.
highlight_language = "none"
pygments_style = "ansible"
pygments_dark_style = "monokai"

# Where the pages of antsibull-docs lead out of the site, by the labels that Ansible's own documentation has. Looking them up there would need the network.
OF_ANSIBLE = {"common_return_values": "https://docs.ansible.com/ansible/latest/reference_appendices/common_return_values.html"}


def lead_to_ansible(app: Sphinx, environment: Any, node: Any, content: nodes.Element) -> nodes.Node | None:
    """Resolve what Sphinx found no label for; None leaves it the error that it is."""
    address = OF_ANSIBLE.get(node["reftarget"])
    return nodes.reference("", "", content, refuri=address, internal=False) if address else None


def setup(app: Sphinx) -> None:
    app.connect("missing-reference", lead_to_ansible)
