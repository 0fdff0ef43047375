"""Pretraining across two hosts, from an S3 server to a registered encoder, each part on a host of its own."""

from __future__ import annotations

from pathlib import Path

import boto3
import pytest
from botocore.config import Config

from jobs.run_folder import RunFolder
from tests.cluster.conftest import Cluster
from tests.cluster.hosts import program
from tests.pictures import tiny_spec

pytestmark = pytest.mark.slow


@pytest.mark.usefixtures("as_a_host")
def test_two_hosts_train_from_s3_and_register_an_encoder(cluster: Cluster) -> None:
    spec = cluster.folder / "run.yaml"
    text = tiny_spec(Path("s3-train"), probe=Path("s3-probe"), scale__workers=2, register="{model: two-hosts}")
    spec.write_text(text.replace("s3-", "s3://data/"))
    printed = cluster.hosts["head"].run(
        f"{program('reco')} pretrain {spec} --run-id first --storage s3://runs/pretraining",
        cluster.environment,
        timeout=280,
    )
    assert "registered two-hosts/1 as candidate" in printed
    run = RunFolder("s3://runs/pretraining", "first")
    outcome = run.outcome()
    assert outcome is not None
    assert outcome["status"] == "succeeded"
    assert outcome["results"]["valid/knn"] > 50
    steps = [record["step"] for record in run.records()]
    assert steps == sorted(set(steps))
    assert any(record["metrics"]["data/bytes_per_s"] > 0 for record in run.records())
    # Both hosts trained: each has the log of a worker.
    for name in ("one", "two"):
        logs = list((cluster.folder / name / "tmp" / "ray").rglob("worker-*.err"))
        assert logs, f"no worker ran on {name}"
    client = boto3.client(
        "s3", endpoint_url=cluster.environment["AWS_ENDPOINT_URL"], config=Config(s3={"addressing_style": "path"})
    )
    keys = [item["Key"] for item in client.list_objects_v2(Bucket="runs")["Contents"]]
    assert any(key.endswith("manifest.json") for key in keys)
