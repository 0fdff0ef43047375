"""The whole mission on a cluster of hosts: search, train, track, register, promote, embed; from pictures in S3."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.embedding.reading import open_embeddings
from jobs.job_folder import SUBMISSION_VARIABLE, Outcome
from jobs.run_folder import RunFolder
from jobs.sweeps.folder import SweepFolder
from jobs.sweeps.ledger import trials_of
from jobs.tracking.models import find_model
from service.contract.messages import Identity, Promotion, Submission
from service.control.control import Control
from service.models.registry import promote
from service.runs.states import State
from service.settings import Settings
from tests.cluster.conftest import Cluster
from tests.cluster.hosts import program
from tests.pictures import tiny_spec

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.usefixtures("as_a_host")]

STORAGE = "s3://runs/mission"
TRIALS = 2
PROBE_PICTURES = 80
PATIENCE_S = 500.0
# Of none of Ray's hosts: whoever submits has the service's programs and addresses, and no part in the cluster.
OUTSIDE = "tracking"


def test_the_service_carries_out_the_mission(cluster: Cluster, tmp_path: Path) -> None:
    told = {
        "RECO_BACKEND": "ray",
        "RECO_RAY_JOBS": job_server(cluster),
        "RECO_STORAGE": STORAGE,
    }
    environment = outside_ray(cluster) | told
    submission = Submission(
        kind="sweep",
        spec=sweep_spec("base.yaml"),
        base=base_spec("mission-served"),
        then_full=True,
        run_id="served",
    )
    with Control(Settings.from_environment(environment)) as control:
        service = control.service(Identity(owner="somebody", role="admin", version="1"))
        assert service.runs.submit(submission).state is State.QUEUED
        leader = f"{program('python')} -m service.leader --until-idle"
        led = cluster.hosts[OUTSIDE].run(leader, environment, timeout=PATIENCE_S)

        run = service.runs.show("served")
        assert run.state is State.SUCCEEDED, f"{run.reason}\n{led}"
        (attempt,) = run.history
        assert len(service.runs.board("served").trials) == TRIALS
        check_sweep(cluster, "served")
        for folder in runs_of("served"):
            assert {noted["submission"] for noted in folder.attempts()} == {attempt.submission_id}

        wish = Promotion(reference="mission-served", reason="the best of its sweep")
        assert service.models.promote(wish).version == 1
    check_encoder(cluster, "mission-served", tmp_path, sweep_id="served")


def test_ray_jobs_alone_carry_out_the_mission(cluster: Cluster, tmp_path: Path) -> None:
    base = cluster.folder / "plain-base.yaml"
    base.write_text(base_spec("mission-plain"))
    sweep = cluster.folder / "plain-sweep.yaml"
    sweep.write_text(sweep_spec(base.name))
    submit(cluster, "plain", f"jobs.sweep run {sweep} --id plain --storage {STORAGE} --home /tmp/reco --then-full")
    check_sweep(cluster, "plain")
    promote(
        "mission-plain", reason="the best of its sweep", who="somebody", uri=cluster.environment["MLFLOW_TRACKING_URI"]
    )
    check_encoder(cluster, "mission-plain", tmp_path, sweep_id="plain")


def test_a_failure_of_workers_on_other_hosts_is_signed_with_its_attempt(cluster: Cluster) -> None:
    spec = cluster.folder / "signed.yaml"
    spec.write_text(base_spec("never", optimizer__lr=1e9))
    command = f"{program('python')} -m jobs.pretrain {spec} --run-id signed --storage {STORAGE} --home /tmp/reco"
    environment = cluster.environment | {SUBMISSION_VARIABLE: "signed-a1"}
    printed = cluster.hosts["head"].run(command, environment, timeout=PATIENCE_S, check=False)
    run = RunFolder(STORAGE, "signed")
    failure = run.storage.read("failure.json").decode()
    assert '"kind": "DivergedError"' in failure, printed
    assert '"submission": "signed-a1"' in failure
    outcome = run.outcome()
    assert outcome is not None
    assert (outcome["kind"], outcome["submission"]) == ("DivergedError", "signed-a1")


def base_spec(model: str, **changes: object) -> str:
    """Two ranks, on a host each; of pictures in S3."""
    given = {"scale__workers": 2, "train__epochs": 2, "train__probe_every": 1, "register": f"{{model: {model}}}"}
    return tiny_spec(Path("s3-train"), probe=Path("s3-probe"), **(given | changes)).replace("s3-", "s3://data/")


def sweep_spec(base: str) -> str:
    return f"name: mission\nbase: {base}\ntrials: {TRIALS}\nscheduler: {{grace_epochs: 1}}\nbudget: {{epochs: 2}}\n"


def job_server(cluster: Cluster) -> str:
    return f"http://{cluster.hosts['head'].address}:8265"


def outside_ray(cluster: Cluster) -> dict[str, str]:
    return {name: value for name, value in cluster.environment.items() if name != "RAY_ADDRESS"}


def submit(cluster: Cluster, submission_id: str, module: str) -> None:
    """Run a module as a Ray job, and wait for its end."""
    command = f"{program('ray')} job submit --address {job_server(cluster)} --submission-id {submission_id}"
    cluster.hosts[OUTSIDE].run(f"{command} -- python -P -m {module}", outside_ray(cluster), timeout=PATIENCE_S)


def runs_of(sweep_id: str) -> list[RunFolder]:
    """Of each trial, and the one that trained the best of them on."""
    folder = SweepFolder(STORAGE, sweep_id)
    return [*(folder.run(number) for number in range(TRIALS)), folder.full_run()]


def check_sweep(cluster: Cluster, sweep_id: str) -> None:
    """Every trial has ended, the best one was trained on, and both hosts took part in each."""
    folder = SweepFolder(STORAGE, sweep_id)
    assert succeeded(folder.outcome())
    trials = trials_of(folder.ledger().events())
    assert len(trials) == TRIALS
    assert {trial.status for trial in trials} <= {"finished", "stopped early"}
    assert succeeded(folder.full_run().outcome())
    for run in runs_of(sweep_id):
        for host in ("one", "two"):
            said = f"of 2 of run {run.run_id} is on {host}\n"
            assert said in logs_of_workers(cluster, host), f"no rank of {run.run_id} was on {host}"


def succeeded(outcome: Outcome | None) -> bool:
    return outcome is not None and outcome["status"] == "succeeded"


def logs_of_workers(cluster: Cluster, host: str) -> str:
    """All that Ray's workers on a host have logged there."""
    return "\n".join(path.read_text() for path in (cluster.folder / host / "tmp" / "ray").rglob("worker-*.err"))


def check_encoder(cluster: Cluster, model: str, folder: Path, *, sweep_id: str) -> None:
    """The champion is what the sweep's best became, MLflow has its curve, and it embeds pictures."""
    version = find_model(f"{model}@champion", cluster.environment["MLFLOW_TRACKING_URI"])
    assert (version.version, version.run_id) == (1, f"{sweep_id}-full")
    assert version.lineage["sweep"] == sweep_id
    assert version.metrics["valid/knn"] > 25  # four classes, and twelve steps of each trial
    out = f"{STORAGE}/{model}.parquet"
    submit(cluster, f"{model}-embeds", f"jobs.embed {model}@champion s3://data/probe --out {out} --home /tmp/reco")
    assert len(open_embeddings(out, folder)) == PROBE_PICTURES
