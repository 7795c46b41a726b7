"""A model hub on a free port, with as much of the real one's HTTP as `huggingface_hub` asks for."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "a" * 40


@dataclass
class Hub:
    """`files` by repository and name. `refuse` answers every request with (status, headers)."""

    files: dict[str, dict[str, bytes]]
    commits: dict[str, tuple[str, ...]] = field(default_factory=dict)
    refuse: tuple[int, dict[str, str]] | None = None
    refuse_files: tuple[int, dict[str, str]] | None = None
    asked: list[str] = field(default_factory=list)

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        if self.refuse is not None:
            return *self.refuse, b"{}"
        parts = unquote(urlsplit(path).path).strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            return self._info("/".join(parts[2:4]), parts[4:])
        if len(parts) > 4 and parts[2] == "resolve":
            return self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        return 200, {}, b"{}"

    def _info(self, repository: str, rest: list[str]) -> tuple[int, dict[str, str], bytes]:
        files = self.files.get(repository)
        if files is None:
            return 404, {"x-error-code": "RepoNotFound"}, b"{}"
        if len(rest) == 2 and rest[1] not in ("main", COMMIT):
            return 404, {"x-error-code": "RevisionNotFound"}, b"{}"
        if rest[:1] == ["tree"]:
            tree = [
                {"type": "file", "path": n, "size": len(d), "oid": hashlib.sha1(d).hexdigest()}
                for n, d in files.items()
            ]
            return 200, {}, json.dumps(tree).encode()
        siblings = [
            {"rfilename": n, "size": len(d), "blobId": hashlib.sha1(d).hexdigest()} for n, d in files.items()
        ]
        return 200, {}, json.dumps({"id": repository, "sha": COMMIT, "siblings": siblings}).encode()

    def _file(self, repository: str, revision: str, name: str) -> tuple[int, dict[str, str], bytes]:
        if self.refuse_files is not None:
            return *self.refuse_files, b"{}"
        data = self.files.get(repository, {}).get(name)
        if data is None or revision not in ("main", COMMIT):
            return 404, {"x-error-code": "EntryNotFound"}, b""
        return 200, {"etag": f'"{hashlib.sha1(data).hexdigest()}"', "x-repo-commit": COMMIT}, data


@contextlib.contextmanager
def serve(hub: Hub) -> Iterator[str]:
    """The hub's URL, for HF_ENDPOINT."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            hub.asked.append(f"{self.command} {self.path}")
            status, headers, body = hub.answer(self.path)
            self.send_response(status)
            for name, value in {"content-length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 - http.server's name

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
