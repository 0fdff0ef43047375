"""An encoder behind HTTP, by Ray Serve: `python -m jobs.serve MODEL`; runs until it is interrupted."""

from __future__ import annotations

import argparse
import contextlib
import logging
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.embedding.cluster import joined, share_out, waiting_said
from jobs.embedding.encoder import pack_encoder
from jobs.embedding.place import at_a_cluster
from jobs.errors import RecoError, UserError

if TYPE_CHECKING:
    from ray import serve

APPLICATION = "reco-embed"
"""What Ray Serve calls it, with the prefix where there is one."""


def main() -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code."""
    arguments = _parse()
    logging.basicConfig(level=logging.WARNING)
    stopping = threading.Event()
    try:
        _check(arguments)
        _serve(arguments, stopping)
    except RecoError as error:
        _note(f"error: {error.message}" + (f"\n  → {error.hint}" if error.hint else ""))
        return error.exit_code
    except KeyboardInterrupt:  # before it served
        _note("stopped")
        return 130
    return 0


def _serve(arguments: argparse.Namespace, stopping: threading.Event) -> None:
    encoder = pack_encoder(arguments.model, arguments.home)
    with joined():
        # Not earlier: Ray sets its own. What is begun must not stay on the cluster.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        # Late: Serve takes seconds to import, and reads its environment as it does.
        import ray
        from ray import serve

        from jobs.embedding.service import Limits, application
        from jobs.embedding.serving import check_free, root_url

        logging.getLogger("ray.serve").setLevel(logging.WARNING)  # else it tells of each step
        name = APPLICATION + arguments.prefix.rstrip("/").replace("/", "-")
        check_free(name, arguments.prefix)
        share = share_out(arguments.replicas, arguments.cpus)
        limits = Limits(arguments.max_batch, arguments.max_wait_ms / 1000, arguments.max_bytes)
        packed = ray.put(encoder)
        app = application(packed, limits, replicas=share.workers, cpus=share.cpus, gpus=share.gpus)
        quiet = {"log_level": "WARNING", "enable_access_log": False}
        serve.start(http_options={"host": arguments.host, "port": arguments.port}, logging_config=quiet)
        try:
            with waiting_said(share, f"ServeReplica:{name}:", anyones=True):
                _run(app, name, arguments.prefix, quiet)
            with _until_signal(stopping):
                where, wanted = root_url(), f"http://{arguments.host}:{arguments.port}"
                if at_a_cluster() and where != wanted:
                    _note(f"Ray Serve runs there already and listens at {where}, not at {wanted}")
                where += arguments.prefix.rstrip("/")
                _note(
                    f"{encoder.reference} at {where}/v1/embed with {share.workers} × {share.cpus} cores; Ctrl-C ends it"
                )
                stopping.wait()
            _note("stopping")
        finally:
            # Others may serve on a cluster that is not ours.
            serve.delete(name) if at_a_cluster() else serve.shutdown()


def _run(app: serve.Application, name: str, prefix: str, logging_config: dict[str, object]) -> None:
    from ray import serve
    from ray.serve.exceptions import RayServeException

    try:
        serve.run(app, name=name, route_prefix=prefix, logging_config=logging_config)
    except (RayServeException, RuntimeError) as error:
        raise RecoError(
            f"Ray Serve could not start it: {error}", hint="Its own logs on the cluster say more."
        ) from error


@contextlib.contextmanager
def _until_signal(stopping: threading.Event) -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: stopping.set()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check(arguments: argparse.Namespace) -> None:
    for name in ("replicas", "cpus", "max_batch", "max_bytes"):
        given = getattr(arguments, name)
        if given is not None and given < 1:
            raise UserError(
                f"--{name.replace('_', '-')} {given}: there must be at least one.", hint="Leave it out for the default."
            )
    prefix = arguments.prefix
    if not prefix.startswith("/") or (prefix.endswith("/") and prefix != "/") or set(prefix) & set("{}?#"):
        raise UserError(f"--prefix {prefix} is no path.", hint="It begins with / and does not end with it: /photos.")
    if arguments.max_wait_ms < 0:
        raise UserError(f"--max-wait-ms {arguments.max_wait_ms} is negative.", hint="0 waits for nobody.")
    if at_a_cluster():
        return
    try:
        with socket.create_server((arguments.host, arguments.port)):
            pass
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"cannot listen at {arguments.host}:{arguments.port}: {reason}.", hint="Choose another --host or --port."
        ) from error


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m jobs.serve", description=__doc__)
    parser.add_argument("model", help="name, name@alias, name/version, or an encoder's folder")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--prefix", default="/", help="path before /v1/embed, for several encoders on a cluster")
    parser.add_argument("--replicas", type=int, help="copies of the encoder; one for each GPU, else host, by default")
    parser.add_argument("--cpus", type=int, help="cores of each replica")
    parser.add_argument("--max-batch", type=int, default=32, help="most pictures that are embedded at once")
    parser.add_argument("--max-wait-ms", type=float, default=5.0, help="longest wait for others to go with")
    parser.add_argument("--max-bytes", type=int, default=32 << 20, help="largest body of a request")
    parser.add_argument("--home", type=Path, required=True, help="where a local MLflow server keeps its files")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
