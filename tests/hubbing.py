"""A model hub on a free port, with as much of the real one's HTTP as `huggingface_hub` asks for.

Large files are redirected to another host, as the real hub does, which knows ranges. What the network does to people
can be set while it runs: slow, silent, broken off, damaged, refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from backend.models import BUILTIN, ModelSpec

COMMIT = "a" * 40
_LARGE = (".safetensors", ".bin", ".ckpt", ".msgpack", ".onnx")
"""What .gitattributes puts into large file storage."""
_CHUNK = 2**14

Answer = tuple[int, dict[str, str], bytes]


def git_digest(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Hub:
    """`files` by repository and name."""

    files: dict[str, dict[str, bytes]]
    refuse: tuple[int, dict[str, str]] | None = None
    """(status, headers) of every answer."""
    refuse_files: tuple[int, dict[str, str]] | None = None
    """The same for files, while the repository can be looked at."""
    speed: float | None = None
    """Bytes a second of each large file; 0 sends headers and then nothing."""
    held: set[str] = field(default_factory=set)
    """Repositories whose large files have speed 0."""
    silent: bool = False
    """Take connections and answer nothing."""
    breaks: list[int] = field(default_factory=list)
    """Each entry breaks one transfer of a large file off after so many bytes."""
    damage: set[str] = field(default_factory=set)
    """Large files that arrive with other bytes than they should."""
    claim: Mapping[str, int] = field(default_factory=dict)
    """Sizes that are announced in place of the true ones, by name."""
    xet: bool = False
    """Whether large files are announced as stored in Xet, too, as all of the real hub's are."""
    asked: list[str] = field(default_factory=list)
    """Method, path and, if one was sent, range."""
    authorised: set[str] = field(default_factory=set)
    """Hosts that were sent a token."""
    sent: Counter[str] = field(default_factory=Counter)
    """Bytes of large files that were sent, by name."""
    closed: threading.Event = field(default_factory=threading.Event)

    def info(self, repository: str, rest: list[str]) -> Answer:
        files = self.files.get(repository)
        if files is None:
            return 404, {"x-error-code": "RepoNotFound"}, b"{}"
        if len(rest) == 2 and rest[1] not in ("main", COMMIT):
            return 404, {"x-error-code": "RevisionNotFound"}, b"{}"
        if rest[:1] == ["tree"]:
            return 200, {}, json.dumps([self._entry(name, data) for name, data in files.items()]).encode()
        siblings = [self._sibling(name, data) for name, data in files.items()]
        return 200, {}, json.dumps({"id": repository, "sha": COMMIT, "siblings": siblings}).encode()

    def ranges(self, name: str) -> list[int]:
        """Where the parts of that file began that were asked for, instead of the whole."""
        asked = [one for one in self.asked if f"/{name} bytes=" in one and one.startswith("GET /storage/")]
        return [int(one.rpartition("bytes=")[2].partition("-")[0]) for one in asked]

    def _sibling(self, name: str, data: bytes) -> dict[str, Any]:
        size = self.claim.get(name, len(data))
        sibling: dict[str, Any] = {"rfilename": name, "size": size, "blobId": git_digest(data)}
        if name.endswith(_LARGE):
            digest = hashlib.sha256(data).hexdigest()
            sibling["lfs"] = {"size": size, "sha256": digest, "pointerSize": 135}
        return sibling

    def _entry(self, name: str, data: bytes) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": git_digest(data)}
        if name.endswith(_LARGE):
            digest = hashlib.sha256(data).hexdigest()
            entry["lfs"] = {"size": len(data), "oid": digest, "pointerSize": 135}
            if self.xet:
                entry["xetHash"] = digest
        return entry

    def find(self, repository: str, revision: str, name: str) -> bytes | None:
        return self.files.get(repository, {}).get(name) if revision in ("main", COMMIT) else None

    def body(self, repository: str, name: str, data: bytes, start: int) -> Iterator[bytes]:
        """A large file from `start`, as the network lets it through."""
        if name in self.damage:
            data = bytes(len(data))
        breaks = bool(self.breaks) and len(data) - start > self.breaks[0]
        limit = self.breaks.pop(0) if breaks else len(data)
        end, begin, first = min(len(data), start + limit), time.monotonic(), start
        while start < end:
            speed = 0 if repository in self.held else self.speed
            if speed is not None and (start - first) >= speed * (time.monotonic() - begin):
                if self.closed.wait(0.01):
                    return
                continue
            piece = data[start : min(end, start + _CHUNK)]
            yield piece
            start += len(piece)
            self.sent[name] += len(piece)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_GET  # noqa: N815 - http.server's name

    def _answer(self) -> None:
        hub, wanted = self.hub, self.headers.get("range")
        hub.asked.append(" ".join(filter(None, (self.command, self.path, wanted))))
        if self.headers.get("authorization"):
            hub.authorised.add(str(self.headers["host"]).partition(":")[0])
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if hub.silent:
            hub.closed.wait()
        elif hub.refuse is not None:
            self._reply(*hub.refuse, b"{}")
        elif parts[:2] == ["api", "models"]:
            self._reply(*hub.info("/".join(parts[2:4]), parts[4:]))
        elif len(parts) > 4 and parts[2] == "resolve":
            self._reply(*self._resolved("/".join(parts[:2]), parts[3], "/".join(parts[4:])))
        elif parts[0] == "storage":
            self._store("/".join(parts[1:3]), "/".join(parts[3:]), wanted)
        else:
            self._reply(200, {}, b"{}")

    def _resolved(self, repository: str, revision: str, name: str) -> Answer:
        if self.hub.refuse_files is not None:
            return *self.hub.refuse_files, b"{}"
        data = self.hub.find(repository, revision, name)
        if data is None:
            return 404, {"x-error-code": "EntryNotFound"}, b""
        headers = {"x-repo-commit": COMMIT}
        if not name.endswith(_LARGE):
            return 200, headers | {"etag": f'"{git_digest(data)}"'}, data
        digest = hashlib.sha256(data).hexdigest()
        headers |= {"x-linked-etag": f'"{digest}"', "x-linked-size": str(len(data))}
        if self.hub.xet:
            host = f"http://{self.headers['host']}"
            headers |= {"x-xet-hash": digest, "x-xet-refresh-route": f"{host}/api/xet-token"}
        port = self.server.server_address[1]
        return 302, headers | {"location": f"http://localhost:{port}/storage/{repository}/{name}"}, b""

    def _store(self, repository: str, name: str, wanted: str | None) -> None:
        data = self.hub.files[repository][name]
        start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("content-length", str(len(data) - start))
        if wanted:
            self.send_header("content-range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if self.command == "GET":
            whole = start
            for piece in self.hub.body(repository, name, data, start):
                self.wfile.write(piece)
                whole += len(piece)
            self.close_connection = whole < len(data)

    def _reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away in the middle are what many tests are about."""


@contextlib.contextmanager
def serve(hub: Hub) -> Iterator[str]:
    """The hub's URL, for HF_ENDPOINT."""
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        hub.closed.set()
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def hub_here(hub: Hub, home: Path) -> Iterator[str]:
    """This process, and the downloads it starts, know no other hub than this one, and keep its files in `home`."""
    from huggingface_hub import constants

    with serve(hub) as url, pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", url)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        for name, value in {"HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(home)}.items():
            patch.setenv(name, value)
        yield url


def builtin_as(name: str) -> tuple[ModelSpec, dict[str, bytes]]:
    """The built-in model under another name and as if it were on the hub: its spec, and its repository's files."""
    folder = Path(BUILTIN.repository)
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    return replace(BUILTIN, name=name, title=f"Big {name}", repository=f"someone/{name}"), files
