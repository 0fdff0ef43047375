"""The champion of a model: through the gates, one after the other, with a history that tells it all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from jobs.errors import RecoError, UserError
from jobs.tracking.history import Entry, History
from jobs.tracking.models import CHAMPION, find_model
from service.cli.main import app
from service.models import registry
from service.models.registry import RefusedError, promote, rollback, run_gates
from tests.encoders import register_random


@pytest.fixture
def home(tracking_home: Path) -> Path:
    return tracking_home


def champion(model: str, uri: str) -> int:
    return int(MlflowClient(uri).get_registered_model(model).aliases.get(CHAMPION, 0))


@pytest.mark.slow
def test_better_ones_are_promoted_worse_ones_refused_with_figures_and_rollback_restores(uri: str) -> None:
    for seed, knn in enumerate((60.0, 66.0, 61.0, 65.7)):
        register_random(uri, "plain", seed=seed, knn=knn)

    assert promote("plain/1", reason="the first", who="ann", uri=uri).entry.previous == 0
    assert promote("plain/2", reason="six points more", who="ann", uri=uri).entry.previous == 1
    with pytest.raises(RefusedError, match=r"knn@20 on some shards: 61\.00, version 2 \(champion\) has 66\.00"):
        promote("plain/3", reason="newer", who="ben", uri=uri)
    assert champion("plain", uri) == 2
    promote("plain", reason="as good, smaller", who="ben", uri=uri)  # the candidate; 0.3 below is within the margin
    assert champion("plain", uri) == 4

    assert rollback("plain", reason="slow", who="cy", uri=uri).entry.version == 2
    assert rollback("plain", reason="slow too", who="cy", uri=uri).entry.version == 1
    assert champion("plain", uri) == 1
    with pytest.raises(UserError, match="no champion of plain to go back to"):
        rollback("plain", reason="again", who="cy", uri=uri)

    entries = History("plain", uri).entries()
    assert [(e.act, e.version, e.previous, e.who) for e in entries] == [
        ("promote", 1, 0, "ann"),
        ("promote", 2, 1, "ann"),
        ("promote", 4, 2, "ben"),
        ("rollback", 2, 4, "cy"),
        ("rollback", 1, 2, "cy"),
    ]
    assert any("65.70" in check for check in entries[2].checks)


@pytest.mark.slow
def test_encoders_judged_on_other_pictures_are_not_compared(uri: str) -> None:
    register_random(uri, "apart", seed=0, knn=60)
    register_random(uri, "apart", seed=1, knn=90, judged_hash="another test set")
    promote("apart/1", reason="first", who="ann", uri=uri)
    with pytest.raises(RefusedError, match="never judged by one metric on the same pictures: run reco eval apart/2"):
        promote("apart/2", reason="thirty points", who="ann", uri=uri)
    assert champion("apart", uri) == 1


@pytest.mark.slow
def test_damaged_encoders_do_not_pass(uri: str, home: Path) -> None:
    register_random(uri, "damaged", seed=0)
    register_random(uri, "damaged", seed=1)
    for version, name in ((1, "encoder.safetensors"), (2, "reference.safetensors")):
        file = artifacts_of(home, "damaged", version, name, uri)
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RefusedError, match="SHA-256 differs"):
        promote("damaged/1", reason="looks good", who="ann", uri=uri)
    with pytest.raises(RefusedError, match=r"reference\.safetensors cannot be read"):
        promote("damaged/2", reason="looks good", who="ann", uri=uri)
    assert champion("damaged", uri) == 0
    assert History("damaged", uri).entries() == []


@pytest.mark.slow
def test_an_encoder_that_computes_something_else_than_at_registration_does_not_pass(uri: str, home: Path) -> None:
    register_random(uri, "other", seed=0)
    register_random(uri, "other", seed=1)
    ours, theirs = (artifacts_of(home, "other", version, "reference.safetensors", uri) for version in (1, 2))
    ours.write_bytes(theirs.read_bytes())
    with pytest.raises(RefusedError, match="features differ by"):
        promote("other/1", reason="looks good", who="ann", uri=uri)


@pytest.mark.slow
def test_an_exported_model_that_takes_other_pictures_does_not_pass(uri: str, home: Path) -> None:
    register_random(uri, "mismatched", seed=0)
    file = artifacts_of(home, "mismatched", 1, "MLmodel", uri)
    assert "16, 16]" in file.read_text()
    file.write_text(file.read_text().replace("16, 16]", "32, 32]"))
    with pytest.raises(RefusedError, match=r"takes float32 \[n, 3, 32, 32\].* say float32 \[n, 3, 16, 16\]"):
        promote("mismatched/1", reason="looks good", who="ann", uri=uri)


@pytest.mark.slow
def test_two_promotions_at_once_one_wins_and_the_other_is_told(uri: str, home: Path) -> None:
    for seed in range(3):
        register_random(uri, "race", seed=seed, knn=60 + seed / 10)
    promote("race/1", reason="first", who="ann", uri=uri)
    environment = {**os.environ, "RECO_HOME": str(home), "MLFLOW_TRACKING_URI": uri}
    command = [sys.executable, "-m", "service.cli.main", "models", "promote"]
    both = [
        subprocess.Popen(
            [*command, f"race/{version}", "--reason", "mine", "--json"],
            env={**environment, "RECO_USER": f"user{version}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for version in (2, 3)
    ]
    told = [process.communicate(timeout=200) for process in both]
    codes = [process.returncode for process in both]
    assert sorted(codes) == [0, 2], told
    winner = 2 if codes[0] == 0 else 3
    assert json.loads(told[codes.index(0)][0])["version"] == winner
    assert f"version {winner} was promoted by user{winner}" in told[codes.index(2)][1].replace("\n", " ")
    assert champion("race", uri) == winner
    assert [entry.version for entry in History("race", uri).entries()] == [1, winner]


@pytest.mark.slow
def test_a_process_that_ended_before_the_alias_moved_is_made_up_for(uri: str) -> None:
    register_random(uri, "undone", seed=0, knn=60)
    register_random(uri, "undone", seed=1, knn=61)
    register_random(uri, "undone", seed=2, knn=62)
    promote("undone/1", reason="first", who="ann", uri=uri)
    History("undone", uri).append(Entry("promote", 2, 1, "then the machine went down", "ann"), after=1)
    assert champion("undone", uri) == 1
    notes: list[str] = []
    assert promote("undone/3", reason="better", who="ben", uri=uri, say=notes.append).entry.previous == 2
    assert "making it now" in notes[0]


@pytest.mark.slow
def test_an_alias_moved_by_something_else_is_written_down(uri: str) -> None:
    for seed in range(3):
        register_random(uri, "moved", seed=seed)
    promote("moved/1", reason="first", who="ann", uri=uri)
    MlflowClient(uri).set_registered_model_alias("moved", CHAMPION, "3")
    promote("moved/2", reason="mine", who="ann", uri=uri)
    assert [(e.act, e.version) for e in History("moved", uri).entries()] == [
        ("promote", 1),
        ("outside", 3),
        ("promote", 2),
    ]


@pytest.mark.slow
def test_a_champion_set_back_by_hand_stays_back_and_reading_changes_nothing(
    uri: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(3):
        register_random(uri, "back", seed=seed)
    promote("back/1", reason="first", who="ann", uri=uri)
    promote("back/2", reason="second", who="ann", uri=uri)
    MlflowClient(uri).set_registered_model_alias("back", CHAMPION, "1")
    monkeypatch.setenv("RECO_HOME", str(home))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    shown = CliRunner().invoke(app, ["models", "history", "back"])
    assert "the alias points to 1" in shown.output
    assert champion("back", uri) == 1
    assert len(History("back", uri).entries()) == 2

    MlflowClient(uri).delete_model_version("back", "1")
    promote("back/3", reason="the first is gone", who="ben", uri=uri)
    assert [(e.act, e.version) for e in History("back", uri).entries()] == [
        ("promote", 1),
        ("promote", 2),
        ("outside", 0),
        ("promote", 3),
    ]


def test_commands_tell_and_refuse_in_a_line(uri: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECO_HOME", str(home))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("RECO_USER", "dora")
    register_random(uri, "cli", seed=0, knn=50)
    register_random(uri, "cli", seed=1, knn=40)
    runner = CliRunner()
    made = runner.invoke(app, ["models", "promote", "cli/1", "--reason", "a start"])
    assert made.exit_code == 0, made.output
    assert "✓ version 1 is the champion of cli" in made.output
    for arguments, code, words in (
        (["promote", "cli/2", "--reason", "newer"], 1, "40.00, version 1 (champion) has 50.00"),
        (["promote", "cli/1", "--reason", "again"], 2, "is the champion already"),
        (["promote", "cli/2", "--reason", " "], 2, "needs a reason"),
        (["promote", "cli@nobody", "--reason", "x"], 2, "no alias 'nobody'"),
        (["promote", "clo/1", "--reason", "x"], 2, "Did you mean 'cli'?"),
        (["rollback", "cli"], 2, "no champion of cli to go back to"),
    ):
        told = runner.invoke(app, ["models", *arguments])
        assert told.exit_code == code, told.output
        assert words in told.output.replace("\n", " ")
        assert "Traceback" not in told.output
    shown = runner.invoke(app, ["models", "history", "cli"])
    assert "dora" in shown.output
    assert "a start" in shown.output
    assert find_model("cli", uri).version == 1


def artifacts_of(home: Path, model: str, version: int, name: str, uri: str) -> Path:
    """Where the server keeps a file of an encoder."""
    model_id = MlflowClient(uri).get_model_version(model, str(version)).source.rsplit("/", 1)[-1]
    (path,) = [found for found in home.rglob(name) if model_id in found.parts]
    return path


def test_gates_that_never_answer_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_LONGEST_S", 0.2)
    monkeypatch.setattr(registry, "python", lambda *_: [sys.executable, "-c", "import time; time.sleep(60)"])
    with pytest.raises(RecoError, match="have said nothing"):
        run_gates("plain/1", None, 0.5, "http://127.0.0.1:9")
