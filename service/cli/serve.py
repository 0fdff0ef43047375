"""`reco serve`: an encoder behind HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from service.child import python
from service.cli.child import attached
from service.cli.embed import Model
from service.cli.home import home


def serve(
    model: Model,
    host: Annotated[str, typer.Option("--host", help="Address to listen at; `0.0.0.0` for everyone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8000,
    prefix: Annotated[
        str, typer.Option("--prefix", help="Path before `/v1/embed`, for several encoders on one cluster.")
    ] = "/",
    replicas: Annotated[
        int | None, typer.Option("--replicas", help="Copies of the encoder; one per GPU, else per host.", min=1)
    ] = None,
    cpus: Annotated[int | None, typer.Option("--cpus", help="Cores of each replica; all by default.", min=1)] = None,
    max_batch: Annotated[int, typer.Option("--max-batch", help="Most pictures that are embedded at once.", min=1)] = 32,
    max_wait_ms: Annotated[
        float, typer.Option("--max-wait-ms", help="Longest wait for others to be embedded with.", min=0)
    ] = 5.0,
    max_bytes: Annotated[int, typer.Option("--max-bytes", help="Largest body of a request.", min=1)] = 32 << 20,
) -> None:
    """Serve an encoder: `POST /v1/embed` takes pictures and answers with the vectors `reco embed` would give.

    Requests that come together are embedded together. Ctrl-C ends it.

    Examples:
    - `reco serve photos-encoder@champion --port 8000`

    - `curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' http://127.0.0.1:8000/v1/embed`

    - `RAY_ADDRESS=head:6379 reco serve birds-encoder --prefix /birds`
    """
    command = python("jobs.serve", model, "--host", host, "--port", str(port), "--home", str(home()))
    command += [
        "--prefix",
        prefix,
        "--max-batch",
        str(max_batch),
        "--max-wait-ms",
        str(max_wait_ms),
        "--max-bytes",
        str(max_bytes),
    ]
    for option, given in (("--replicas", replicas), ("--cpus", cpus)):
        command += [option, str(given)] if given is not None else []
    raise typer.Exit(attached(command))
