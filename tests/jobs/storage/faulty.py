"""An S3 server that only reads, and that breaks on purpose, in every way a real one was seen to."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DATA = os.urandom(2_500_000)
ERRORS = {
    "500": "InternalError",
    "503": "SlowDown",
    "403": "AccessDenied",
    "404": "NoSuchKey",
    "412": "PreconditionFailed",
}
HALF_BODIES = ("truncated", "a byte", "reset", "no length", "cut chunk", "stall", "trickle")


class FaultyServer(ThreadingHTTPServer):
    """Answers GETs of any key with `DATA`; `faults[n]` says how request n breaks, `always` how every later one does.

    Attributes:
        ranges: What was asked for, [start, stop) each, in order.
        connections: The client's port of each of these requests.
        delay_s: Wait before every answer.
        most_at_once: Most of them that were being answered at the same time.
        questions: HEADs, which never break.
    """

    daemon_threads = True
    request_queue_size = 512

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.faults: list[str] = []
        self.always = "fine"
        self.ranges: list[tuple[int, int]] = []
        self.connections: list[int] = []
        self.delay_s = 0.0
        self.most_at_once = 0
        self.questions = 0
        self.closing = threading.Event()
        self._at_once = 0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def answering(self, asked: tuple[int, int], port: int) -> Iterator[str]:
        """Note a request and say how it is to break."""
        with self._lock:
            self.ranges.append(asked)
            self.connections.append(port)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            fault = self.faults.pop(0) if self.faults else self.always
        try:
            yield fault
        finally:
            with self._lock:
                self._at_once -= 1

    def handle_error(self, *_: object) -> None:
        """Broken pipes are what this server is for."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyServer

    def log_message(self, *_: object) -> None:
        """Keep the test output clean."""

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(DATA)))
        self.send_header("ETag", '"two"' if self.server.always == "other version" else '"one"')
        self.end_headers()
        self.server.questions += 1

    def do_GET(self) -> None:
        first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        start, stop = int(first), int(last) + 1
        with self.server.answering((start, stop), self.client_address[1]) as fault:
            self._answer(fault, start, stop)

    def _answer(self, fault: str, start: int, stop: int) -> None:
        self.server.closing.wait(self.server.delay_s)
        if fault in ERRORS:
            self._refuse(int(fault), ERRORS[fault])
            return
        if fault == "hang up":
            self.close_connection = True
            return
        if fault == "silence":
            self.server.closing.wait(60)
            self.close_connection = True
            return
        shift = 1 if fault == "wrong range" else 0
        body = DATA[start + shift : stop + shift]
        if fault == "ignores range":
            body = DATA
            self.send_response(200)
        else:
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start + shift}-{stop + shift - 1}/{len(DATA)}")
        if fault == "empty":
            body = b""
        self.send_header("ETag", '"two"' if fault == "other version" else '"one"')
        if fault in ("cut chunk", "chunked"):
            self.send_header("Transfer-Encoding", "chunked")
        elif fault == "no length":
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault == "chunked":
            self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        elif fault in HALF_BODIES:
            self.close_connection = True
            self._break_off(fault, body)
        else:
            self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        body = f"<Error><Code>{code}</Code><Message>on purpose</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _break_off(self, fault: str, body: bytes) -> None:
        if fault == "cut chunk":
            self.wfile.write(b"%x\r\n" % len(body))
        self.wfile.write(body[: 1 if fault == "a byte" else len(body) // 2])
        self.wfile.flush()
        if fault == "reset":
            # A linger of zero seconds makes the close a reset.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        elif fault == "stall":
            self.server.closing.wait(60)
        elif fault == "trickle":
            for at in range(len(body) // 2, len(body)):
                self.wfile.write(body[at : at + 1])
                self.wfile.flush()
                if self.server.closing.wait(0.01):
                    return


@contextlib.contextmanager
def serve(server: FaultyServer) -> Iterator[FaultyServer]:
    """Run the server in a thread until the block ends."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
