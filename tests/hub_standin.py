"""A local HTTP server that stands in for the Hugging Face hub: the endpoints that downloads and uploads use."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".pt", ".pth", ".npy")


@dataclass
class Repo:
    files: dict[str, bytes]
    gated: bool = False
    private: bool = False

    @property
    def commit(self) -> str:
        digest = hashlib.sha1()
        for name, data in sorted(self.files.items()):
            digest.update(name.encode() + hashlib.sha256(data).digest())
        return digest.hexdigest()


@dataclass
class HubStandIn:
    """Repositories in memory. A gated one needs ``token``; ``break_off`` names files whose next transfer is cut."""

    repos: dict[str, Repo] = field(default_factory=dict)
    token: str = "hf_stand_in"
    break_off: set[str] = field(default_factory=set)
    #: (method, repository, file) of every file request, with the Range header of each.
    requests: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    ranges: list[str] = field(default_factory=list)
    #: Of the commits that were pushed.
    messages: list[str] = field(default_factory=list)

    def add_folder(self, repo: str, folder: Path, *, gated: bool = False) -> Repo:
        files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        self.repos[repo] = Repo(files, gated=gated)
        return self.repos[repo]

    def downloads(self, repo: str) -> set[str]:
        return {name for (method, asked, name) in self.requests if method == "GET" and asked == repo}

    def __enter__(self) -> HubStandIn:
        hub = self

        class Handler(_Handler):
            standin = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    standin: HubStandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path)
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            self.standin.repos.setdefault(name, Repo({}))
            return self._json({"url": f"{self.standin.url}/{name}", "id": name})
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/.+", path):
            files = json.loads(body)["files"]
            plan = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None} for f in files]
            return self._json({"files": plan})
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/.+", path):
            repo = self.standin.repos[match.group(1)]
            for line in body.splitlines():
                item = json.loads(line)
                if item["key"] == "header":
                    self.standin.messages.append(item["value"]["summary"])
                if item["key"] == "file":
                    repo.files[item["value"]["path"]] = base64.b64decode(item["value"]["content"])
            address = f"{self.standin.url}/{match.group(1)}/commit/{repo.commit}"
            return self._json({"commitUrl": address, "commitOid": repo.commit, "success": True})
        return self._error(404, "NotFound")

    def _serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+?)(?:/revision/(.+))?", path):
            repo = self.standin.repos.get(match.group(1))
            if repo is None or (repo.private and not self._allowed()):
                return self._error(401, "RepoNotFound")
            if match.group(2) not in (None, "main", repo.commit):
                return self._error(404, "RevisionNotFound")
            return self._json(_info(match.group(1), repo))
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/(.+)", path):
            return self._json(_tree(self.standin.repos[match.group(1)]))
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._file(*match.groups())
        return self._error(404, "NotFound")

    def _file(self, name: str, revision: str, filename: str) -> None:
        repo = self.standin.repos.get(name)
        self.standin.requests[(self.command, name, filename)] += 1
        if repo is None:
            return self._error(401, "RepoNotFound")
        if repo.gated and not self._allowed():
            return self._error(403 if "Authorization" in self.headers else 401, "GatedRepo")
        if revision not in ("main", repo.commit):
            return self._error(404, "RevisionNotFound")
        data = repo.files.get(filename)
        if data is None:
            return self._error(404, "EntryNotFound", commit=repo.commit)
        start = 0
        wanted = re.fullmatch(r"bytes=(\d+)-.*", self.headers.get("Range", ""))
        if wanted:
            start = int(wanted.group(1))
            self.standin.ranges.append(self.headers["Range"])
        sha = hashlib.sha256(data).hexdigest()
        etag = sha if filename.endswith(LFS_SUFFIXES) else _git_sha(data)
        self.send_response(206 if wanted else 200)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Linked-Etag", f'"{etag}"')
        self.send_header("X-Linked-Size", str(len(data)))
        self.send_header("X-Repo-Commit", repo.commit)
        self.send_header("Accept-Ranges", "bytes")
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if self.command == "HEAD":
            return None
        if filename in self.standin.break_off:
            self.standin.break_off.remove(filename)
            self.wfile.write(data[start : start + len(data) // 2])
            self.close_connection = True
            return None
        self.wfile.write(data[start:])
        return None

    def _allowed(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.standin.token}"

    def _json(self, data: Any) -> None:
        body = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _error(self, status: int, code: str, commit: str | None = None) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _info(name: str, repo: Repo) -> dict[str, Any]:
    siblings = []
    for filename, data in repo.files.items():
        item: dict[str, Any] = {"rfilename": filename, "size": len(data), "blobId": _git_sha(data)}
        if filename.endswith(LFS_SUFFIXES):
            item["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        siblings.append(item)
    return {"_id": name, "id": name, "sha": repo.commit, "private": False, "siblings": siblings, "tags": []}


def _tree(repo: Repo) -> list[dict[str, Any]]:
    """The same files as the listing of a commit's tree gives them."""
    items = []
    for filename, data in repo.files.items():
        item: dict[str, Any] = {"type": "file", "path": filename, "size": len(data), "oid": _git_sha(data)}
        if filename.endswith(LFS_SUFFIXES):
            item["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        items.append(item)
    return items


def _git_sha(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
