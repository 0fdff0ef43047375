"""One process's hold on the service: the database, the backends, and what callers may ask of them."""

from __future__ import annotations

import functools
import getpass
import os
import socket
from importlib import metadata
from typing import Self

from service.backends.base import Backend
from service.backends.configured import configured
from service.contract.interface import Service
from service.contract.messages import Identity
from service.control.models import RegisteredModels
from service.control.runs import StoredRuns
from service.control.tokens import StoredTokens
from service.runs.access import Audit, Tokens
from service.runs.database import Clock, now, open_database
from service.runs.idempotency import Replies
from service.runs.listing import RunList
from service.runs.store import RunStore
from service.settings import Settings


class Control:
    """Opened once per process; safe to be used from many threads.

    Args:
        settings: Where everything is.
        clock: What time it is; tests bring their own.

    Attributes:
        settings: As given.
        database: Open.
        store: The runs.
        listed: The same as lists.
        replies: What requests were answered.
        tokens_store: Tokens of the API.
        audit: Who did what.

    Raises:
        StoreError: The database does not answer.
        SchemaError: A newer version of this project made it.
    """

    def __init__(self, settings: Settings, *, clock: Clock = now) -> None:
        self.settings = settings
        self.database = open_database(settings.database, clock=clock)
        self.store = RunStore(self.database)
        self.listed = RunList(self.database)
        self.replies = Replies(self.database)
        self.tokens_store = Tokens(self.database)
        self.audit = Audit(self.database)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database."""
        self.database.close()

    @functools.cached_property
    def backends(self) -> dict[str, Backend]:
        """Where jobs run, by name; the one for new attempts first."""
        return configured(self.settings)

    @property
    def tracking(self) -> str:
        """Address of MLflow: `MLFLOW_TRACKING_URI`, or a local server, which is started if need be.

        Raises:
            TrackingUnreachableError: None answers there.
        """
        from jobs.tracking.server import tracking_uri  # late: nothing but models should wait for MLflow

        return tracking_uri(self.settings.home)

    def service(self, caller: Identity) -> Service:
        """What a caller can ask; what it may do is for whoever let it in to say, but for its project."""
        return Service(
            runs=StoredRuns(self, caller),
            models=RegisteredModels(self, caller),
            tokens=StoredTokens(self, caller),
            where=self.database.engine.url.render_as_string(hide_password=True),
            caller=caller,
        )


def this_user() -> Identity:
    """Who works on this machine without an API between: RECO_USER where it is set, else the user of the machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run as a number that has no name
        user = str(os.getuid())
    owner = os.environ.get("RECO_USER") or f"{user}@{socket.gethostname()}"
    return Identity(owner=owner, role="admin", version=version())


def version() -> str:
    """Of this project."""
    return metadata.version("reco-training")
