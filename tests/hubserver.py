"""A small stand-in for the Hub: an HTTP server with the endpoints that huggingface_hub asks for models.

Repositories are made, branched, listed, read, and committed to, small files inline and large ones through Git LFS; a
token decides who may write. Files can also be put straight into a repository, as a hostile publisher would.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

Files = dict[str, bytes]


@dataclass
class Repo:
    """Commits of a repository, by number, and where its branches stand."""

    private: bool = False
    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: Files, message: str = "") -> str:
        sha = hashlib.sha1(f"{len(self.commits)}{message}".encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        self.messages.append(message)
        return sha

    def sha(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.branches.get(revision)

    @property
    def main(self) -> Files:
        return self.commits[self.branches["main"]]


@dataclass
class Hub:
    """What the server knows. `url` is its endpoint; `asked` are method and path of all requests."""

    url: str = ""
    token: str = "hf_writer"
    large: int = 256
    repos: dict[str, Repo] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)

    def make(self, name: str, files: Files | None = None, *, private: bool = False) -> Repo:
        repo = self.repos[name] = Repo(private=private)
        repo.commit("main", dict(files or {}), "initial commit")
        return repo


class Handler(BaseHTTPRequestHandler):
    """One request."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.asked.append((self.command, unquote(parts.path)))
        writes = self.command in ("POST", "PUT") and not parts.path.endswith("/validate-yaml")
        if writes and "/object/" not in parts.path and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self._refuse(401, "", "Invalid credentials in Authorization header")
            return
        words = [unquote(word) for word in parts.path.strip("/").split("/")]
        if words[0] == "object":
            self.hub.objects[words[1]] = self.body
            self._answer(b"", {})
        elif words[:2] == ["api", "validate-yaml"]:
            self._json({"errors": [], "warnings": []})
        elif words[:3] == ["api", "repos", "create"]:
            self._create(json.loads(self.body))
        elif words[:2] == ["api", "models"]:
            self._api(f"{words[2]}/{words[3]}", words[4:])
        elif words[2:] == ["info", "lfs", "objects", "batch"]:
            self._lfs(json.loads(self.body))
        elif words[2:3] == ["resolve"]:
            self._resolve(f"{words[0]}/{words[1]}", words[3], "/".join(words[4:]))
        else:
            self._refuse(404, "", "no such endpoint")

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization'] or 'me'}/{asked['name']}"
        if asked["organization"] == "others":
            self._refuse(403, "", "You don't have the rights to create a model under the namespace others")
        elif name in self.hub.repos:
            self._json({"url": f"{self.hub.url}/{name}", "error": "You already created this model repo"}, status=409)
        else:
            self.hub.make(name, {".gitattributes": b"*.safetensors filter=lfs\n"}, private=_private(asked))
            self._json({"url": f"{self.hub.url}/{name}", "name": name})

    def _api(self, name: str, words: list[str]) -> None:
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and "Authorization" not in self.headers):
            self._refuse(404, "RepoNotFound", "Repository not found")
            return
        what, revision = [*words, "", ""][:2] if words else ("revision", "main")
        sha = repo.sha(revision or "main")
        if what == "branch":
            exists = revision in repo.branches
            repo.branches.setdefault(revision, repo.branches["main"])
            self._json({"error": "exists"} if exists else {}, status=409 if exists else 200)
        elif sha is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif what == "revision":
            files = [{"rfilename": path} for path in sorted(repo.commits[sha])]
            self._json(
                {"id": name, "modelId": name, "sha": sha, "private": repo.private, "siblings": files, "tags": []}
            )
        elif what == "tree":
            self._json([self._listed(path, data) for path, data in sorted(repo.commits[sha].items())])
        elif what == "preupload":
            asked = json.loads(self.body)["files"]
            modes = {file["path"]: "lfs" if file["size"] > self.hub.large else "regular" for file in asked}
            self._json({"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes.items()]})
        elif what == "commit":
            self._commit(name, repo, revision)

    def _commit(self, name: str, repo: Repo, branch: str) -> None:
        lines = [json.loads(line) for line in self.body.splitlines()]
        files, message = dict(repo.commits[repo.branches[branch]]), ""
        for line in lines:
            key, value = line["key"], line["value"]
            if key == "header":
                message = value["summary"]
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        sha = repo.commit(branch, files, message)
        self._json(
            {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{name}/commit/{sha}", "hookOutput": ""}
        )

    def _listed(self, path: str, data: bytes) -> dict[str, Any]:
        lfs = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        return {
            "type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest(),
            **({"lfs": lfs} if len(data) > self.hub.large else {}),
        }  # fmt: skip

    def _lfs(self, asked: dict[str, Any]) -> None:
        made = [
            {
                "oid": item["oid"], "size": item["size"],
                **({} if item["oid"] in self.hub.objects else {
                    "actions": {"upload": {"href": f"{self.hub.url}/object/{item['oid']}"}}
                }),
            }
            for item in asked["objects"]
        ]  # fmt: skip
        self._json({"transfer": "basic", "objects": made})

    def _resolve(self, name: str, revision: str, path: str) -> None:
        repo = self.hub.repos.get(name)
        sha = repo.sha(revision) if repo else None
        if repo is None or sha is None or path not in repo.commits[sha]:
            self._refuse(404, "EntryNotFound", "Entry not found")
            return
        data = repo.commits[sha][path]
        self._answer(data, {"X-Repo-Commit": sha, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'})

    def _json(self, found: Any, *, status: int = 200) -> None:
        self._answer(json.dumps(found).encode(), {"Content-Type": "application/json"}, status=status)

    def _refuse(self, status: int, code: str, text: str) -> None:
        headers = {
            "Content-Type": "application/json",
            "X-Error-Message": text,
            **({"X-Error-Code": code} if code else {}),
        }
        self._answer(json.dumps({"error": text}).encode(), headers, status=status)

    def _answer(self, data: bytes, headers: dict[str, str], *, status: int = 200) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, quote(value, safe=" \"/:*=;,.'-_"))
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _private(asked: dict[str, Any]) -> bool:
    return bool(asked.get("private")) or asked.get("visibility") == "private"


@contextmanager
def serving() -> Iterator[Hub]:
    """A Hub that answers on a free port of this machine."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
