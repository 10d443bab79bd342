# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules of awx.awx ask an AWX for, on loopback: lists by name, objects that are made and changed, surveys and what belongs to a job template.

It judges nothing but what a real one refuses as well: a survey whose questions and defaults are not of their kinds.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

TOKEN = "token-of-the-test"
# What is shown of a secret.
ENCRYPTED = "$encrypted$"
SECRET = ("ssh_key_data",)
# Under these names one can ask for objects that were made under others.
UNIONS = {"unified_job_templates": ("job_templates", "projects")}


class AwxApi:
    """`objects` has what was made: kind, as "projects", to name to object. `requests` has method and path of each call."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, dict[str, Any]]] = {}
        self.requests: list[tuple[str, str]] = []
        self.surveys: dict[int, dict[str, Any]] = {}
        self.credentials: dict[int, list[int]] = {}
        self._ids = 0
        for kind, name in (("organizations", "Default"), ("credential_types", "Machine")):
            self.make(kind, {"name": name})
        api = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_arguments: object) -> None:
                pass

            def answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                data = json.loads(self.rfile.read(length) or b"{}") if self.command in ("POST", "PATCH") else {}
                status, body = 401, {"detail": "Authentication credentials were not provided."}
                if self.headers.get("Authorization") == f"Bearer {TOKEN}":
                    status, body = api.answer(self.command, self.path, data)
                text = json.dumps(body).encode() if body is not None else b""
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def do_GET(self) -> None:
                self.answer()

            def do_POST(self) -> None:
                self.answer()

            def do_PATCH(self) -> None:
                self.answer()

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def environment(self) -> dict[str, str]:
        return {"CONTROLLER_HOST": f"http://127.0.0.1:{self._server.server_address[1]}", "CONTROLLER_OAUTH_TOKEN": TOKEN}

    def __enter__(self) -> AwxApi:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def make(self, kind: str, data: Mapping[str, Any]) -> dict[str, Any]:
        self._ids += 1
        url = f"/api/v2/{kind}/{self._ids}/"
        more: dict[str, Any] = {"id": self._ids, "url": url, "type": kind.rstrip("s"), "summary_fields": {}, "scm_revision": ""}
        more["related"] = {"survey_spec": f"{url}survey_spec/"}
        made = {**data, **more}
        self.objects.setdefault(kind, {})[data["name"]] = made
        return made

    def answer(self, method: str, path: str, data: dict[str, Any]) -> tuple[int, Any]:
        self.requests.append((method, path))
        split = urlsplit(path)
        kind, *rest = split.path.removeprefix("/api/v2/").strip("/").split("/")
        if not rest:
            if method == "POST":
                return 201, shown(self.make(kind, data))
            return 200, listed(self._found(kind, dict(parse_qsl(split.query))))
        number = int(rest[0])
        if rest[1:] == ["survey_spec"]:
            if method == "GET":
                return 200, self.surveys.get(number, {})
            wrong = [one["variable"] for one in data["spec"] if not is_question(one)]
            if wrong:
                return 400, {"error": f"Survey question {wrong} is not as it must be."}
            self.surveys[number] = data
            return 200, {}
        if rest[1:] == ["credentials"]:
            if method == "GET":
                return 200, listed([{"id": one} for one in self.credentials.get(number, [])])
            self.credentials.setdefault(number, []).append(data["id"])
            return 204, None
        (found,) = (one for one in self.objects[kind].values() if one["id"] == number)
        if method == "PATCH":
            found.update(data)
        return 200, shown(found)

    def _found(self, kind: str, query: Mapping[str, str]) -> list[dict[str, Any]]:
        of_kinds = [one for each in UNIONS.get(kind, (kind,)) for one in self.objects.get(each, {}).values()]
        return [shown(one) for one in of_kinds if all(str(one.get(field)) == value for field, value in query.items())]


def is_question(one: Mapping[str, Any]) -> bool:
    return (
        type(one["required"]) is bool
        and type(one["default"]) is (int if one["type"] == "integer" else str)
        and all(one[limit] is None or type(one[limit]) is int for limit in ("min", "max"))
        and (one["type"] != "multiplechoice" or one["default"] in one["choices"])
    )


def shown(made: Mapping[str, Any]) -> dict[str, Any]:
    if "inputs" not in made:
        return dict(made)
    return {**made, "inputs": {name: ENCRYPTED if name in SECRET else value for name, value in made["inputs"].items()}}


def listed(results: list[dict[str, Any]]) -> dict[str, Any]:
    return {"count": len(results), "next": None, "results": results}
