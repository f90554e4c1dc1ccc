"""A hub on loopback: the part of its protocol that a download uses, with faults to order.

GET  /api/{models,datasets}/OWNER/NAME/revision/REV              commit of a branch or tag
GET  /api/{models,datasets}/OWNER/NAME/tree/COMMIT?recursive=..  files with sizes
HEAD /[datasets/]OWNER/NAME/resolve/COMMIT/FILE                  X-Repo-Commit, ETag, size;
                                                                 large files redirect to /cdn
GET  the same, or /cdn/..., with Range                           bytes
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LARGE = ".safetensors"
"""Files of this kind are served from another path, as those in LFS are."""


@dataclass
class Hub:
    """What the hub has, what it was asked, and how it misbehaves."""

    repositories: dict[str, dict[str, bytes]]
    """`models/owner/name` or `datasets/owner/name` -> path -> content."""
    url: str = ""
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, path and range of each request."""
    token: str | None = None
    """Where it is not given, the answer is 401."""
    cuts: dict[str, list[int]] = field(default_factory=dict)
    """File -> bytes after which each of the next answers breaks off."""
    sizes: dict[str, int] = field(default_factory=dict)
    """File -> a wrong size that its metadata state."""
    revisions: tuple[str, ...] = ("main", "v1")
    """Branches and tags, all of one commit."""

    def gets(self, name: str) -> list[str | None]:
        """Return the ranges in which a file was fetched."""
        return [r for method, path, r in self.asked if method == "GET" and path.endswith(name)]


def commit_of(repository: str) -> str:
    """Return the one commit of `models/owner/name` or `datasets/owner/name`."""
    return _oid(repository.encode())


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Serve until the block ends."""

    class Handler(_Handler):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: Hub

    def log_message(self, *_: object) -> None:
        """Stay quiet."""

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.served.asked.append((self.command, path, self.headers.get("Range")))
        if self.served.token and self.headers.get("Authorization") != f"Bearer {self.served.token}":
            self._send(401, b'{"error":"Invalid username or password."}', {}, body=body)
        elif path.startswith("/api/"):
            self._api(path.removeprefix("/api/"))
        else:
            self._file(path.strip("/"), body=body)

    def _api(self, path: str) -> None:
        name, kind, revision = _split(path, "/revision/", "/tree/")
        files = self.served.repositories.get(name)
        if files is None:
            return self._fail(404, "RepoNotFound", "Repository not found")
        if revision not in (*self.served.revisions, commit_of(name)):
            return self._fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if kind == "/revision/":
            _, _, repository = name.partition("/")
            listed = [{"rfilename": file} for file in files]
            return self._json({"id": repository, "sha": commit_of(name), "siblings": listed})
        tree = [
            {"type": "file", "path": file, "size": len(content), "oid": _oid(content)}
            for file, content in files.items()
        ]
        return self._json(tree)

    def _file(self, path: str, *, body: bool) -> None:
        on_cdn = path.startswith("cdn/")
        place = path.removeprefix("cdn/")
        kind = "" if place.startswith("datasets/") else "models/"
        repository, _, rest = place.partition("/resolve/")
        _, _, file = rest.partition("/")
        repository = kind + repository
        content = self.served.repositories.get(repository, {}).get(file)
        if content is None:
            return self._fail(404, "EntryNotFound", "Entry not found")
        stated = self.served.sizes.get(file, len(content))
        facts = {
            "X-Repo-Commit": commit_of(repository),
            "ETag": f'"{_oid(content)}"',
            "Accept-Ranges": "bytes",
        }
        if file.endswith(LARGE) and not on_cdn:
            facts |= {
                "X-Linked-Size": str(stated),
                "X-Linked-ETag": facts["ETag"],
                "Location": f"{self.served.url}/cdn/{place}",
            }
            return self._send(302, b"", facts, body=body)
        if not body:
            return self._send(200, bytes(stated), facts, body=False)
        return self._send_file(file, content, facts)

    def _send_file(self, file: str, content: bytes, facts: dict[str, str]) -> None:
        status, start = 200, 0
        if found := self.headers.get("Range"):
            start = int(found.removeprefix("bytes=").partition("-")[0])
            status = 206
            facts["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        rest = content[start:]
        cuts = self.served.cuts.get(file, [])
        if not cuts:
            return self._send(status, rest, facts, body=True)
        self._head(status, len(rest), facts)
        self.wfile.write(rest[: cuts.pop(0)])
        self.wfile.flush()
        self.close_connection = True  # in the middle of the body
        return None

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"}, body=True)

    def _fail(self, status: int, code: str, message: str) -> None:
        facts = {"X-Error-Code": code, "X-Error-Message": message}
        self._send(status, json.dumps({"error": message}).encode(), facts, body=True)

    def _head(self, status: int, length: int, facts: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in facts.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def _send(self, status: int, content: bytes, facts: dict[str, str], *, body: bool) -> None:
        self._head(status, len(content), facts)
        if body:
            self.wfile.write(content)


def _split(path: str, *separators: str) -> tuple[str, str, str]:
    for separator in separators:
        name, found, rest = path.partition(separator)
        if found:
            return name, separator, rest.rstrip("/")
    return path, "/revision/", "main"


def _oid(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
