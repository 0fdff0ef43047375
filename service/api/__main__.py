"""`python -m service.api`: the API and its pages by uvicorn, until SIGINT or SIGTERM."""

from __future__ import annotations

import argparse
import logging
import os
import re
import signal
import socket
import sys
from types import FrameType

import uvicorn

from jobs.errors import RecoError, UserError
from service.api.app import create_app
from service.api.events import Streams
from service.control.control import Control
from service.settings import Settings

_LONGEST_END_S = 20
_SECRETS = re.compile(r"reco_[\w-]{8,}|(?<=://)[^/@\s]+(?=@)|(?i:(?<=bearer )\S+)")


class SecretiveFormatter(logging.Formatter):
    """Writes lines without the tokens and passwords that may have come into them, also by a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        return _SECRETS.sub("***", super().format(record))


class Server(uvicorn.Server):
    """Ends its event streams when it is told to end: it would wait for them.

    Args:
        config: Of uvicorn.
        streams: Those.
    """

    def __init__(self, config: uvicorn.Config, streams: Streams) -> None:
        super().__init__(config)
        self._streams = streams

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came. Not uvicorn's own way: it ends by the signal once more, before anything here is closed."""
        self._streams.close()
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def main() -> int:
    """Serve; returns the exit code."""
    arguments = _parse()
    handler = logging.StreamHandler()
    handler.setFormatter(SecretiveFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for talkative in ("httpx", "alembic"):
        logging.getLogger(talkative).setLevel(logging.WARNING)
    try:
        with Control(Settings.from_environment()) as control, _listen(arguments.host, arguments.port) as listening:
            app = create_app(control)
            config = uvicorn.Config(
                app,
                log_config=None,
                access_log=False,  # the frame counts requests; a line for each would cost more than it tells
                server_header=False,
                timeout_graceful_shutdown=_LONGEST_END_S,
                ws="none",
            )
            host, port = listening.getsockname()[:2]
            logging.getLogger("reco.api").info("http://%s:%d", host, port)
            Server(config, app.state.streams).run([listening])
    except RecoError as error:
        print(f"error: {error.message}" + (f"\n  → {error.hint}" if error.hint else ""), file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens there, or says at once that it cannot."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        number = error.errno if isinstance(error, OSError) and error.errno is not None else 0
        reason = os.strerror(number) if number > 0 else error  # Python's own says the address once more
        raise UserError(
            f"cannot listen at {host}:{port}: {reason}.", hint="Choose another --host or --port."
        ) from error


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m service.api", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at")
    parser.add_argument("--port", type=int, default=8000, help="0 takes any that is free")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
