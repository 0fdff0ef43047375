"""A way to a real S3 server that breaks answers about shards on purpose."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Fault = Callable[[int, int, int], str]
"""Of the request's number and its range [start, stop): which fault, "" for none."""


class FaultyProxy(ThreadingHTTPServer):
    """Passes everything on as it is signed, but breaks GETs of .tar objects as `fault` says."""

    daemon_threads = True

    def __init__(self, endpoint: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = endpoint.removeprefix("http://")
        self.fault: Fault = lambda number, start, stop: ""
        self.rotten: tuple[str, int] | None = None
        """A shard and the byte of it that is wrong in every answer."""
        self.requests = 0
        self.lock = threading.Lock()
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> FaultyProxy:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """Broken pipes are what it is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def log_message(self, *_: object) -> None:
        """Keep the test output clean."""

    def do_GET(self) -> None:
        self._pass_on()

    def do_HEAD(self) -> None:
        self._pass_on()

    def do_PUT(self) -> None:
        self._pass_on()

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault, start = "", 0
        if self.command == "GET" and ".tar?" not in self.path and self.path.partition("?")[0].endswith(".tar"):
            with self.server.lock:
                number, self.server.requests = self.server.requests, self.server.requests + 1
            first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
            start = int(first)
            fault = self.server.fault(number, start, int(last) + 1)
        if fault.isdigit():
            self.send_response(int(fault))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        upstream = http.client.HTTPConnection(self.server.upstream)
        upstream.request(self.command, self.path, body, dict(self.headers.items()))  # the Host that was signed too
        answer = upstream.getresponse()
        data = bytearray(answer.read())
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length", "date", "server"):
                self.send_header(name, '"another"' if fault == "other version" and name.lower() == "etag" else value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        upstream.close()
        if self.server.rotten is not None and self.command == "GET" and self.server.rotten[0] in self.path:
            place = self.server.rotten[1] - start
            if 0 <= place < len(data) and ".json" not in self.path:
                data[place] ^= 4
        if fault == "flipped bit":
            data[len(data) // 3] ^= 4
        elif fault == "zeroed block":
            data[len(data) // 3 : len(data) // 3 + 512] = bytes(512)
        elif fault in ("cut", "reset"):
            del data[len(data) // 2 :]
            self.close_connection = True
        if self.command != "HEAD":
            self.wfile.write(data)
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
