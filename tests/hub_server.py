"""A stand-in for the Hugging Face Hub: models in memory, served as the Hub serves them.

Files of weights are LFS files: their ETag is the sha256, and `resolve` redirects to where the
content lies. Others have the hash that git gives them. Errors carry the headers of the real ones.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

REPO = "tellers/tale.v1"
NEEDED = ["config.json", "merges.txt", "vocab.json", "model.safetensors"]
README = {"README.md": b"# a model", ".gitattributes": b"*.bin filter=lfs"}
LFS = (".safetensors", ".bin", ".gguf", ".h5", ".msgpack", ".onnx")


@dataclass
class Repo:
    """A model: commits (files by name) and refs; `access` is public, private or gated."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    access: str = "public"

    def at(self, revision: str) -> str | None:
        return self.refs.get(revision, revision if revision in self.commits else None)


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub:
    """The server: what it has, what it was asked (`requests`), and how it misbehaves.

    `cut` maps file names to the bytes after which the connection breaks, once. `answer` replaces
    every answer by a status and body. `token` opens private and gated models. `blobs` false leaves
    sizes and hashes out, as plain mirrors do. `warning` is sent for huggingface_hub to show;
    `delay` is in seconds.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.cut: dict[str, int] = {}
        self.answer: tuple[int, str] | None = None
        self.token = "hf_secret"
        self.blobs = True
        self.warning = ""
        self.delay = 0.0
        self.url = self.storage = ""

    def publish(self, repo: str, files: dict[str, bytes], ref: str = "main") -> str:
        """Make these files the newest commit of a model."""
        content = repr(sorted(files.items())).encode()
        commit = hashlib.sha1(repo.encode() + content).hexdigest()
        entry = self.repos.setdefault(repo, Repo())
        entry.commits[commit] = files
        entry.refs[ref] = commit
        return commit

    def fetched(self) -> set[str]:
        """Return the names of the files whose content was asked for."""
        return {path.rpartition("/")[2] for method, path, _ in self.requests if method == "GET"}


@contextmanager
def serve() -> Iterator[Hub]:
    """Run a Hub on a free port of this machine."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    hub.storage = hub.url.replace("127.0.0.1", "localhost")  # another host, as the Hub's
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        time.sleep(self.hub.delay)
        with suppress(ConnectionError):  # the client waits no longer
            self._serve()

    def _serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.count("/") > 2:  # huggingface_hub has requests of its own, such as for its news
            self.hub.requests.append((self.command, path, self.headers.get("Range")))
        if self.hub.answer is not None:
            status, text = self.hub.answer
            self._send(status, text.encode(), {"Content-Type": "text/html"})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self._model(found[1], found[2] or "main")
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(*found.groups())
        elif found := re.fullmatch(r"/lfs/([^/]+/[^/]+)/([^/]+)/(.+)", path):
            repo, commit, name = found.groups()
            self._content(name, self.hub.repos[repo].commits[commit][name], {})
        else:
            self._send(404, b"", {})

    def _allowed(self, repo: str) -> Repo | None:
        known = self.hub.repos.get(repo)
        trusted = self.headers.get("Authorization") == f"Bearer {self.hub.token}"
        if known is None or (known.access == "private" and not trusted):
            self._refuse(404 if trusted else 401, "RepoNotFound")
            return None
        return known

    def _model(self, name: str, revision: str) -> None:
        repo = self._allowed(name)
        if repo is None:
            return
        commit = repo.at(revision)
        if commit is None:
            self._refuse(404, "RevisionNotFound")
            return
        siblings: list[dict[str, Any]] = []
        for file, content in repo.commits[commit].items():
            entry: dict[str, Any] = {"rfilename": file}
            if self.hub.blobs:
                entry |= {"blobId": git_hash(content), "size": len(content)}
                if file.endswith(LFS):
                    digest = hashlib.sha256(content).hexdigest()
                    entry["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
            siblings.append(entry)
        body = json.dumps({"id": name, "modelId": name, "sha": commit, "siblings": siblings})
        self._send(200, body.encode(), {"Content-Type": "application/json"})

    def _resolve(self, name: str, revision: str, file: str) -> None:
        repo = self._allowed(name)
        if repo is None:
            return
        if repo.access == "gated" and "Authorization" not in self.headers:
            self._refuse(401, "GatedRepo")
            return
        commit = repo.at(revision)
        if commit is None:
            self._refuse(404, "RevisionNotFound")
            return
        content = repo.commits[commit].get(file)
        headers = {"X-Repo-Commit": commit}
        if content is None:
            self._refuse(404, "EntryNotFound", headers)
        elif file.endswith(LFS):
            headers |= {
                "Location": f"{self.hub.storage}/lfs/{name}/{commit}/{file}",
                "X-Linked-Size": str(len(content)),
                "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"',
            }
            self._send(302, b"", headers)
        else:
            self._content(file, content, headers | {"ETag": f'"{git_hash(content)}"'})

    def _content(self, name: str, content: bytes, headers: dict[str, str]) -> None:
        status = 200
        if wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(wanted[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            status, content = 206, content[start:]
        cut = self.hub.cut.pop(name, None) if self.command == "GET" else None
        self._send(status, content, headers, cut)

    def _refuse(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": code} | (headers or {}))

    def _send(
        self, status: int, body: bytes, headers: dict[str, str], cut: int | None = None
    ) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        if self.hub.warning:
            self.send_header("X-HF-Warning", f"{self.path}; {self.hub.warning}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True
