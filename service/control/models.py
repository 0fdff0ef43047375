"""Registered encoders and their champions, for the contract: over MLflow, as the caller."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import TYPE_CHECKING

from jobs.tracking.history import Entry, History
from jobs.tracking.models import EncoderVersion, find_model, list_models, show_model
from service.contract.interface import Models
from service.contract.messages import (
    ChampionChange,
    EvaluationView,
    Identity,
    ModelDetails,
    ModelHistory,
    ModelView,
    Promotion,
    Rollback,
)
from service.models import registry
from service.runs.schema import JsonObject

if TYPE_CHECKING:
    from service.control.control import Control

_log = logging.getLogger("reco.models")


class RegisteredModels(Models):
    """Encoders in MLflow; who changes a champion is in its history there, and in the audit here.

    MLflow knows no projects: whoever may see models sees those of all.

    Args:
        control: The service. It is asked for the address of MLflow when something is, not before.
        caller: Who asks.
    """

    def __init__(self, control: Control, caller: Identity) -> None:
        self._control, self._caller = control, caller

    def versions(self) -> list[ModelView]:
        """See `Models.versions`."""
        return [_view(each) for each in list_models(self._control.tracking)]

    def show(self, reference: str) -> ModelDetails:
        """See `Models.show`."""
        found = show_model(reference, self._control.tracking)
        content = {
            "encoder": found.config,
            "preprocessing": found.preprocessing,
            "files": found.files,
            "card": found.card,
        }
        return ModelDetails.model_validate(dict(_view(found.version)) | content)

    def history(self, name: str) -> ModelHistory:
        """See `Models.history`."""
        uri = self._control.tracking
        name = find_model(name, uri).name  # says what there is where there is no such model
        entries = History(name, uri).entries()
        return ModelHistory(
            name=name, champion=registry.champion_of(name, uri), changes=[_change(each) for each in entries]
        )

    def promote(self, promotion: Promotion) -> ChampionChange:
        """See `Models.promote`."""
        changed = registry.promote(
            promotion.reference,
            reason=promotion.reason,
            who=self._caller.owner,
            uri=self._control.tracking,
            margin=promotion.margin,
            say=_log.warning,
        )
        return self._made("model.promote", changed)

    def rollback(self, name: str, wish: Rollback) -> ChampionChange:
        """See `Models.rollback`."""
        changed = registry.rollback(
            name, reason=wish.reason, who=self._caller.owner, uri=self._control.tracking, say=_log.warning
        )
        return self._made("model.rollback", changed)

    def _made(self, action: str, changed: registry.Changed) -> ChampionChange:
        entry = changed.entry
        told: JsonObject = {"previous": entry.previous, "reason": entry.reason}
        self._control.audit.add(self._caller.owner, action, f"{changed.model}/{entry.version}", told)
        return _change(entry)


def _view(version: EncoderVersion) -> ModelView:
    return ModelView(
        name=version.name,
        version=version.version,
        aliases=list(version.aliases),
        knn=version.knn,
        created=version.created,
        run_id=version.run_id,
        mlflow_run_id=version.mlflow_run_id,
        metrics=version.metrics,
        dataset_hash=version.dataset_hash,
        spec_hash=version.spec_hash,
        code=version.code,
        lineage=version.lineage,
        evaluations=[EvaluationView.model_validate(asdict(each)) for each in version.evaluations],
        url=version.url,
    )


def _change(entry: Entry) -> ChampionChange:
    return ChampionChange.model_validate({**asdict(entry), "checks": list(entry.checks)})
