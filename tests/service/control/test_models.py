"""Registered encoders through the service: shown as MLflow has them, changed as the caller, noted in the audit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jobs.errors import UserError
from jobs.tracking.errors import UnknownModelError
from jobs.tracking.models import show_model
from service.client import connect
from service.contract.interface import Service
from service.contract.messages import Promotion, Rollback
from service.control.control import Control
from service.settings import Settings
from tests.encoders import register_random
from tests.service.client.live import serving
from tests.service.control.conftest import caller


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Control, str]]:
    """A service whose MLflow, a database without a server, has two versions of one encoder."""
    folder = tmp_path_factory.mktemp("encoders")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # where MLflow puts the files of encoders where there is no server
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        for seed in range(2):
            register_random(uri, "photos-encoder", seed=seed, knn=60.0 + seed)
        with Control(Settings.from_environment({"RECO_HOME": str(folder / "home")})) as control:
            yield control, uri


@pytest.fixture
def service(encoders: tuple[Control, str]) -> Service:
    return encoders[0].service(caller())


def test_versions_are_shown_as_they_were_registered(service: Service, encoders: tuple[Control, str]) -> None:
    versions = service.models.versions()
    assert [(each.name, each.version, each.aliases, each.knn) for each in versions] == [
        ("photos-encoder", 2, ["candidate"], 61.0),
        ("photos-encoder", 1, [], 60.0),
    ]
    assert [(each.data, each.metrics) for each in versions[1].evaluations] == [("some shards", {"knn@20": 60.0})]
    shown = service.models.show("photos-encoder/1")
    stored = show_model("photos-encoder/1", encoders[1])
    assert shown.model_dump(exclude=set(type(shown).model_fields) - set(type(versions[1]).model_fields)) == (
        versions[1].model_dump()
    )
    assert (shown.encoder, shown.preprocessing) == (stored.config, stored.preprocessing)
    assert (shown.files, shown.card) == (stored.files, stored.card)
    with pytest.raises(UnknownModelError, match="no encoder 'photo' is registered"):
        service.models.history("photo")


def test_over_http_models_are_the_same_and_so_is_what_is_refused(
    service: Service, encoders: tuple[Control, str]
) -> None:
    with serving(encoders[0]) as api, connect(api.url, api.token("promoter")) as remote:
        assert remote.models.versions() == service.models.versions()
        assert remote.models.history("photos-encoder") == service.models.history("photos-encoder")
        for reference in ("photos-encoder", "photos-encoder/1", "models:/photos-encoder@candidate"):
            assert remote.models.show(reference) == service.models.show(reference)
        for models in (service.models, remote.models):
            with pytest.raises(UserError, match="no champion of photos-encoder to go back to"):
                models.rollback("photos-encoder", Rollback(reason="slow"))
            for reference in ("photos-encoder/9", "photos-encoder@nobody", "photo", "a/b/c"):
                with pytest.raises(UnknownModelError):
                    models.show(reference)
    assert encoders[0].audit.entries(target="photos-encoder/1") == []


@pytest.mark.slow  # the gates load the encoder in a fresh process
def test_a_change_of_the_champion_is_the_callers_and_in_the_audit(
    service: Service, encoders: tuple[Control, str]
) -> None:
    control, _ = encoders
    with serving(control) as api, connect(api.url, api.token("promoter", owner="cy")) as remote:
        made = remote.models.promote(Promotion(reference="models:/photos-encoder@candidate", reason="the first"))
        with pytest.raises(UserError, match="is the champion already"):
            remote.models.promote(Promotion(reference="photos-encoder/2", reason="again"))
    assert (made.act, made.version, made.previous, made.who, made.reason) == ("promote", 2, 0, "cy", "the first")
    assert any(check.startswith("whole") or "SHA-256" in check for check in made.checks)
    history = service.models.history("photos-encoder")
    assert (history.name, history.champion, history.changes) == ("photos-encoder", 2, [made])
    entry = control.audit.entries(actor="cy")[0]
    assert (entry.action, entry.target) == ("model.promote", "photos-encoder/2")
    assert entry.data == {"previous": 0, "reason": "the first"}
