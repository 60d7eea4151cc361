"""As much of a Kubernetes API server as kubectl needs to apply manifests: kinds, and a memory.

It says which kinds there are, that it checks unknown fields itself (which it does not), and keeps
what is posted but for dry runs.
"""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

KINDS = {
    "v1": {"configmaps": "ConfigMap"},
    "batch/v1": {"jobs": "Job"},
    "ray.io/v1": {"rayjobs": "RayJob", "rayclusters": "RayCluster"},
}


def path_of(version: str) -> str:
    return f"/api/{version}" if "/" not in version else f"/apis/{version}"


class Server:
    """Answers for the kinds of some versions; `made` is what was posted to it."""

    def __init__(self, versions: Sequence[str], port: int) -> None:
        self.versions = versions
        self.port = port
        self.made: list[dict[str, Any]] = []

    def answer(self, path: str) -> dict[str, Any] | None:
        groups = [version for version in self.versions if "/" in version]
        if path == "/api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        if path == "/apis":
            found = []
            for version in groups:
                one = {"groupVersion": version, "version": version.split("/")[1]}
                name = version.split("/")[0]
                found.append({"name": name, "versions": [one], "preferredVersion": one})
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": found}
        if path == "/openapi/v3":
            paths = {
                path_of(v)[1:]: {"serverRelativeURL": f"/openapi/v3{path_of(v)}"} for v in KINDS
            }
            return {"paths": paths}
        for version in self.versions:
            if path == path_of(version):
                return self._kinds(version)
            if path == f"/openapi/v3{path_of(version)}":
                return _parameters(version)
        return None

    def _kinds(self, version: str) -> dict[str, Any]:
        resources = [
            {
                "name": plural,
                "singularName": kind.lower(),
                "namespaced": True,
                "kind": kind,
                "verbs": ["create", "get", "list", "patch"],
            }
            for plural, kind in KINDS[version].items()
        ]
        return {"kind": "APIResourceList", "groupVersion": version, "resources": resources}


def _parameters(version: str) -> dict[str, Any]:
    """Return the part of an OpenAPI document that says who checks unknown fields."""
    group, _, number = version.rpartition("/")
    paths = {}
    for plural, kind in KINDS[version].items():
        about = {"group": group, "version": number, "kind": kind}
        paths[f"{path_of(version)}/namespaces/{{namespace}}/{plural}/{{name}}"] = {
            "patch": {
                "parameters": [
                    {"name": "fieldValidation", "in": "query"},
                    {"name": "dryRun", "in": "query"},
                ],
                "x-kubernetes-group-version-kind": about,
                "responses": {},
            }
        }
    return {"openapi": "3.0.0", "info": {"title": "a", "version": "1"}, "paths": paths}


@contextmanager
def api_server(folder: Path, versions: Sequence[str] = tuple(KINDS)) -> Iterator[Server]:
    """Serve on this machine, and write `folder`/kubeconfig, with which kubectl finds it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = server.answer(self.path.partition("?")[0])
            missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure"}
            missing |= {"reason": "NotFound", "code": 404}
            self._say(200 if found else 404, found or missing)

        def do_POST(self) -> None:
            made = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if "dryRun=All" not in self.path:
                server.made.append(made)
            self._say(201, made)

        def _say(self, status: int, content: dict[str, Any]) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = Server(versions, http.server_address[1])
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "a", "cluster": {"server": f"http://127.0.0.1:{server.port}"}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        "users": [{"name": "a", "user": {}}],
        "current-context": "a",
    }
    (folder / "kubeconfig").write_text(json.dumps(config))
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
