"""Who made which version the champion, when and why: a history that can only grow.

Each model has one MLflow run whose params are the entries, numbered from 1. MLflow takes a param once and refuses
another value for it, so an entry can neither be changed nor be written by two.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Literal

from jobs.errors import UserError
from jobs.tracking.client import client, explained
from jobs.tracking.errors import TrackingError

Act = Literal["promote", "rollback", "outside"]

EXPERIMENT = "reco-registry"
RUN_TAG = "reco.history_run"
"""Tag of a registered model: the MLflow run that holds its history."""
_MODEL_TAG = "reco.history_of"
_SETTLE_S = 2.0
_MADE = "made"
_LONGEST_ENTRY = 6000
"""Characters of a param; MLflow cuts what is longer without a word, and an entry cut off could not be read again."""


class OvertakenError(UserError):
    """Somebody else changed the champion meanwhile."""


@dataclass(frozen=True)
class Entry:
    """One change of the champion.

    Attributes:
        act: `promote`, `rollback`, or `outside`: the alias was found moved by something else than this project.
        version: The champion from then on; 0 for none.
        previous: The one before; 0 for none.
        reason: Why.
        who: Who.
        when: ISO 8601, UTC.
        checks: What the gates said, one line each.
    """

    act: Act
    version: int
    previous: int
    reason: str
    who: str
    when: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    checks: tuple[str, ...] = ()


class History:
    """The history of one registered model.

    Args:
        model: Its name.
        uri: Address of the tracking server.
    """

    def __init__(self, model: str, uri: str) -> None:
        self.model, self._uri = model, uri

    def entries(self) -> list[Entry]:
        """All entries, oldest first.

        Raises:
            TrackingError: The server did not answer or refused.
        """
        with explained(f"read the history of {self.model}", self._uri):
            run = self._run()
            params = client(self._uri).get_run(run).data.params if run else {}
        numbered = sorted((int(number), value) for number, value in params.items() if number.isdigit())
        return [self._entry(value) for _, value in numbered]

    def made(self, number: int) -> bool:
        """Whether the alias has followed entry `number`.

        Raises:
            TrackingError: The server did not answer or refused.
        """
        with explained(f"read the history of {self.model}", self._uri):
            run = self._run()
            return run is not None and f"{number:06d}.{_MADE}" in client(self._uri).get_run(run).data.params

    def note_made(self, number: int) -> None:
        """Note that the alias has followed entry `number`; may be noted twice.

        Raises:
            TrackingError: The server did not answer or refused.
        """
        with explained(f"write the history of {self.model}", self._uri):
            client(self._uri).log_param(self._run() or self._begin(), f"{number:06d}.{_MADE}", "yes", synchronous=True)

    def append(self, entry: Entry, *, after: int) -> None:
        """Add an entry as number `after` + 1.

        Args:
            entry: The entry.
            after: How many entries there were when it was decided on.

        Raises:
            OvertakenError: There is an entry of that number by now.
            UserError: The entry is longer than MLflow keeps.
            TrackingError: The server did not answer or refused.
        """
        from mlflow.exceptions import MlflowException

        text = json.dumps(asdict(entry), ensure_ascii=False)
        if len(text) > _LONGEST_ENTRY:
            too_long = len(text) - _LONGEST_ENTRY
            raise UserError("the reason is longer than MLflow keeps.", hint=f"Shorten it by {too_long} characters.")
        with explained(f"write the history of {self.model}", self._uri):
            run, number = self._run() or self._begin(), f"{after + 1:06d}"
            try:
                client(self._uri).log_param(run, number, text, synchronous=True)
            except MlflowException:
                if len(self.entries()) <= after:  # it was refused for another reason than that there is one
                    raise
        written = self.entries()
        if len(written) <= after:
            raise TrackingError(f"MLflow lost an entry of the history of {self.model}.", hint="Nothing was changed.")
        if written[after] != entry:
            raise OvertakenError(
                f"the champion of {self.model} was changed meanwhile: {sentence(written[after])}.",
                hint="Nothing was changed. See `reco models history`, and decide anew.",
            )

    def _run(self) -> str | None:
        found = client(self._uri).get_registered_model(self.model).tags.get(RUN_TAG)
        return str(found) if found else None

    def _entry(self, text: str) -> Entry:
        try:
            content = json.loads(text)
            return Entry(**{**content, "checks": tuple(content["checks"])})
        except (ValueError, TypeError, KeyError) as error:
            raise TrackingError(f"the history of {self.model} has an entry that cannot be read: {error}.") from error

    def _begin(self) -> str:
        """Create the run that holds the history; where two do so at once, both go on with the same one."""
        with explained(f"begin the history of {self.model}", self._uri):
            api = client(self._uri)
            experiment = api.get_experiment_by_name(EXPERIMENT)
            experiment_id = experiment.experiment_id if experiment else _created(self._uri)
            run = api.create_run(experiment_id, run_name=self.model, tags={_MODEL_TAG: self.model})
            api.set_terminated(run.info.run_id)
            if self._run() is None:
                api.set_registered_model_tag(self.model, RUN_TAG, run.info.run_id)
            time.sleep(_SETTLE_S)  # a tag has no "only if there is none": the last one set holds, for both
            found = self._run()
            if found is None:
                raise TrackingError(f"MLflow lost the history of {self.model} it had just begun.")
            if found != run.info.run_id:
                api.delete_run(run.info.run_id)
            return found


def undone(entries: Sequence[Entry]) -> int | None:
    """The version that a rollback brings back: the champion before the last change that was not undone yet.

    Returns:
        The version; None where there is nothing to go back to.
    """
    champions: list[int] = []
    for entry in entries:
        if entry.act == "rollback":
            champions.pop()
        else:
            if not champions and entry.previous:
                champions.append(entry.previous)
            champions.append(entry.version)
    return champions[-2] if len(champions) > 1 and champions[-2] else None


def sentence(entry: Entry) -> str:
    """An entry in words."""
    what = {
        "promote": f"version {entry.version} was promoted",
        "rollback": f"version {entry.version} was brought back",
        "outside": f"version {entry.version} was found to be the champion"
        if entry.version
        else "the alias was removed",
    }[entry.act]
    return f"{what} by {entry.who} at {entry.when} ({entry.reason})"


def _created(uri: str) -> str:
    from mlflow.exceptions import MlflowException

    api = client(uri)
    try:
        return str(api.create_experiment(EXPERIMENT))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return str(api.get_experiment_by_name(EXPERIMENT).experiment_id)
