"""What Ray Serve runs on a cluster already: which names and prefixes are taken, and where it listens."""

from __future__ import annotations

from typing import Any

from ray.serve.context import _get_global_client

from jobs.errors import RecoError, UserError


def check_free(name: str, prefix: str) -> None:
    """Refuse to take the place of another application: Serve would give its clients other answers.

    Args:
        name: Of the application that is to be.
        prefix: Of its routes.

    Raises:
        UserError: One of them is taken.
    """
    client = _client()
    if client is None:
        return
    # `serve.status` knows names, but no prefixes.
    for other, details in client.get_serve_details()["applications"].items():
        if other == name or details["route_prefix"] == prefix:
            raise UserError(
                f"{client.root_url}{details['route_prefix'] or ''} is served already, by the application {other}.",
                hint="Give --prefix /NAME to serve beside it, or end the command that serves it.",
            )


def root_url() -> str:
    """Where Ray Serve listens, which whoever started it first has settled.

    Raises:
        RecoError: It does not listen to HTTP.
    """
    client = _client()
    if client is None or not client.root_url:
        raise RecoError("Ray Serve on this cluster does not listen to HTTP.", hint="Start it anew, with HTTP.")
    return str(client.root_url).rstrip("/")


def _client() -> Any:  # noqa: ANN401 - Ray gives its client no public type
    """Ray Serve's controller; None where there is none yet. There is no public way to ask where it listens."""
    return _get_global_client(raise_if_no_controller_running=False)
