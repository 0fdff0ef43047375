"""What an encoder was found to be worth, kept with its version: which pictures it was judged on, and the figures."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from jobs.tracking.client import client, explained

_log = logging.getLogger(__name__)

TAG = "reco.eval."
"""Tags of a model version that start so hold one evaluation each, by the id of its probe."""


@dataclass(frozen=True)
class Evaluation:
    """Figures of one encoder on one probe.

    Attributes:
        probe: Id of the pictures it was fitted to and judged on; figures of one id may be compared.
        data: The pictures it was judged on, for people.
        metrics: Figures by name: `knn@20` (20 neighbours), `linear` and the like in percent; `rank_me`.
        main: The metric by which encoders are compared.
        when: ISO 8601, UTC.
    """

    probe: str
    data: str
    metrics: dict[str, float]
    main: str
    when: str


def evaluation(
    *,
    fitted_hash: str,
    judged_hash: str,
    data: str,
    metrics: Mapping[str, float],
    main: str,
    when: datetime | None = None,
) -> Evaluation:
    """An evaluation made now.

    Args:
        fitted_hash: Hash of the index of the labelled pictures that classifiers were fitted to; empty for none.
        judged_hash: Of those that were classified.
        data: Where the latter lie.
        metrics: Figures by name.
        main: The one by which encoders are compared.
        when: When it was made; now by default.
    """
    probe = hashlib.sha256(f"{fitted_hash} {judged_hash}".encode()).hexdigest()[:12]
    return Evaluation(probe, data, dict(metrics), main, (when or datetime.now(UTC)).isoformat(timespec="seconds"))


def as_tags(evaluations: list[Evaluation]) -> dict[str, str]:
    """Evaluations as tags of a model version."""
    return {f"{TAG}{each.probe}": json.dumps(asdict(each)) for each in evaluations}


def from_tags(tags: Mapping[str, str]) -> tuple[Evaluation, ...]:
    """The evaluations among the tags of a model version, oldest first; one that cannot be read is told and left out."""
    found = []
    for name, value in tags.items():
        if name.startswith(TAG):
            try:
                found.append(Evaluation(**json.loads(value)))
            except (ValueError, TypeError) as error:  # others may write tags too, and a list must not fail for one
                _log.warning("the tag %s holds no evaluation: %s", name, error)
    return tuple(sorted(found, key=lambda each: each.when))


def keep_evaluation(name: str, version: int, made: Evaluation, uri: str) -> Evaluation:
    """Keep an evaluation with a version; figures of the same probe that are not measured again stay.

    Args:
        name: Registered model.
        version: Its version.
        made: The evaluation.
        uri: Address of the tracking server.

    Returns:
        What is kept.

    Raises:
        TrackingError: The server did not answer or refused.
    """
    with explained(f"keep the evaluation of {name}/{version}", uri):
        known = from_tags(client(uri).get_model_version(name, str(version)).tags)  # as it is now: judging takes long
        before = next((each for each in known if each.probe == made.probe), made)
        kept = replace(made, metrics=before.metrics | made.metrics, main=before.main)
        for tag, value in as_tags([kept]).items():
            client(uri).set_model_version_tag(name, str(version), tag, value)
    return kept
