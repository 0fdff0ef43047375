"""`reco doctor`: what is wrong is marked with ✗ and a next step, and no secret is ever printed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from jobs import doctor
from service.cli.checks import examine, machine, plan, storage, systems
from service.cli.main import app
from tests.pictures import tiny_spec, write_shards
from tests.s3 import S3Server, clear_aws, free_port


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clear_aws(monkeypatch)
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "RAY_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RECO_HOME", str(tmp_path / "home"))


class Pages(BaseHTTPRequestHandler):
    """Answers from the server's `pages`: path → (status, text)."""

    def do_GET(self) -> None:
        status, text = self.server.pages.get(self.path, (404, ""))  # type: ignore[attr-defined]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def pages() -> Iterator[tuple[str, dict[str, tuple[int, str]]]]:
    server = HTTPServer(("127.0.0.1", 0), Pages)
    server.pages = {}  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_port}", server.pages  # type: ignore[attr-defined]
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_machine_without_anything_configured_is_in_order() -> None:
    findings = list(examine(None))
    assert [each.mark for each in findings if each.mark == "✗"] == []
    subjects = [each.subject for each in findings]
    assert [each for each in subjects if each != "GPU"] == [
        "versions", "cores", "memory", "/dev/shm", "disk", "torch", "Ray", "MLflow", "S3",
    ]  # fmt: skip
    told = {each.subject: each.found for each in findings}
    assert "torch 2" in told["versions"]
    assert told["Ray"] == "no RAY_ADDRESS: a run starts a local cluster"
    assert told["MLflow"].startswith("no MLFLOW_TRACKING_URI: a local server is started")
    assert told["S3"] == "no AWS_ENDPOINT_URL; no credentials are set"


def test_what_cannot_be_reached_is_marked_with_a_next_step_and_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:hush1@127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://me:hush2@127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "hush3")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush4")
    ended = CliRunner().invoke(app, ["doctor"])
    assert ended.exit_code == 1
    assert "hush" not in ended.output
    assert ended.stderr.startswith("error: 3 of ")
    lines = ended.stdout.splitlines()
    wrong = {line.split()[1]: (line, lines[i + 1]) for i, line in enumerate(lines) if line.startswith("✗")}
    assert wrong.keys() == {"Ray", "MLflow", "S3"}
    assert f"127.0.0.1:{port} cannot be reached: connection refused" in wrong["Ray"][0]
    assert f"http://127.0.0.1:{port} cannot be used" in wrong["MLflow"][0]
    assert f"http://127.0.0.1:{port} cannot be reached: connection refused" in wrong["S3"][0]
    assert all(step.strip().startswith("→ ") for _, step in wrong.values())


def test_findings_as_json() -> None:
    ended = CliRunner().invoke(app, ["doctor", "--json"])
    told = json.loads(ended.stdout)
    assert (ended.exit_code, told["ok"]) == (0, True)
    assert told["findings"][0].keys() == {"state", "subject", "found", "advice"}
    assert {each["state"] for each in told["findings"]} <= {"ok", "warning"}


@pytest.mark.parametrize(
    ("answers", "mark", "told"),
    [
        ({"/health": (200, "OK"), "/version": (200, "3.1.0")}, "✓", "answers, version 3.1.0"),
        ({"/health": (200, "OK"), "/version": (200, "1.30.0")}, "!", "answers, version 1.30.0"),
        ({"/health": (200, "OK")}, "!", "answers, but names no version"),
        ({"/health": (401, ""), "/version": (401, "")}, "!", "answers and asks for a login"),
        ({"/health": (500, "")}, "✗", "cannot be used: it answers /health with HTTP 500"),
    ],
)
def test_mlflow_is_told_by_what_it_answers(
    monkeypatch: pytest.MonkeyPatch,
    pages: tuple[str, dict[str, tuple[int, str]]],
    answers: dict[str, tuple[int, str]],
    mark: str,
    told: str,
) -> None:
    pages[1].update(answers)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{pages[0]}")
    (finding,) = systems.mlflow()
    assert (finding.mark, finding.found) == (mark, f"http://{pages[0]} {told}")
    assert (finding.advice is None) == (mark == "✓")


def test_mlflow_with_a_login_that_is_set_is_in_order(
    monkeypatch: pytest.MonkeyPatch, pages: tuple[str, dict[str, tuple[int, str]]]
) -> None:
    pages[1].update({"/health": (401, ""), "/version": (401, "")})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{pages[0]}")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    assert systems.mlflow()[0].mark == "✓"


def test_the_address_of_rays_jobs_api_is_told_apart(
    monkeypatch: pytest.MonkeyPatch, pages: tuple[str, dict[str, tuple[int, str]]]
) -> None:
    pages[1]["/api/version"] = (200, "{}")
    monkeypatch.setenv("RAY_ADDRESS", f"http://{pages[0]}")
    (finding,) = systems.ray()
    assert finding.mark == "!"
    assert "host:6379" in (finding.advice or "")


CLUSTER = """
import ray, sys
context = ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)
print(context.address_info["gcs_address"], flush=True)
sys.stdin.read()
"""


def test_a_cluster_is_told_with_what_it_offers_and_whether_it_lets_us_in(monkeypatch: pytest.MonkeyPatch) -> None:
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "hush-hush-hush-hush-hush-hush-hush"}
    command = [sys.executable, "-c", CLUSTER]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | token
    ) as cluster:
        assert cluster.stdin is not None
        assert cluster.stdout is not None
        address = next(line.strip() for line in cluster.stdout if ":" in line)
        monkeypatch.setenv("RAY_ADDRESS", address)
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
        (shut_out,) = systems.ray()
        for name, value in token.items():
            monkeypatch.setenv(name, value)
        (let_in,) = systems.ray()
        cluster.stdin.close()
    assert (shut_out.mark, shut_out.found) == ("✗", f"{address} asks for a token, and got none or a wrong one")
    assert "RAY_AUTH_TOKEN" in (shut_out.advice or "")
    assert let_in.mark == "✓", let_in
    assert let_in.found.startswith(f"{address}: 1 nodes, 1 CPUs, 0 GPUs, version ")
    assert "hush" not in f"{shut_out}{let_in}"


def test_ray_that_listens_and_refuses_is_told_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, pages: tuple[str, dict[str, tuple[int, str]]]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", pages[0])
    monkeypatch.setattr(systems, "ask", lambda *_: {"error": "RuntimeError: Version mismatch"})
    (finding,) = systems.ray()
    assert (finding.mark, finding.found) == ("✗", f"{pages[0]}: RuntimeError: Version mismatch")


def test_rights_on_a_server_that_honours_conditional_writes(monkeypatch: pytest.MonkeyPatch, moto_s3: S3Server) -> None:
    moto_s3.use(monkeypatch)
    url = f"s3://{moto_s3.new_bucket()}/runs"
    assert [(each.mark, each.found) for each in storage.rights(url)] == [
        ("✓", f"{url} can be listed; it is empty"),
        ("✓", "can be written to; conditional writes are honoured"),
        ("✓", "can be deleted from"),
    ]
    assert storage.rights(url)[0].found == f"{url} can be listed; it is empty"  # the probe was taken away


def test_rights_on_a_server_that_ignores_conditional_writes(
    monkeypatch: pytest.MonkeyPatch, rclone_s3: S3Server
) -> None:
    rclone_s3.use(monkeypatch)
    bucket = rclone_s3.new_bucket()
    assert rclone_s3.folder is not None
    (rclone_s3.folder / bucket / "a.tar").write_bytes(b"x")
    found = storage.rights(f"s3://{bucket}")
    assert [(each.mark, each.found) for each in found] == [
        ("✓", f"s3://{bucket} can be listed; it holds objects"),
        ("✓", "can be read (a.tar)"),
        ("!", "can be written to; conditional writes are not honoured"),
        ("✓", "can be deleted from"),
    ]
    assert [each.name for each in (rclone_s3.folder / bucket).iterdir()] == ["a.tar"]


@pytest.mark.parametrize(
    ("change", "told"),
    [({"AWS_SECRET_ACCESS_KEY": "hush"}, "key"), ({}, "bucket")],
    ids=["wrong key", "no such bucket"],
)
def test_refused_storage_is_wrong_with_a_next_step(
    monkeypatch: pytest.MonkeyPatch, rclone_s3: S3Server, change: dict[str, str], told: str
) -> None:
    rclone_s3.use(monkeypatch)
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    (finding,) = storage.rights("s3://nobody-made-this/x")
    assert finding.mark == "✗"
    assert told in f"{finding.found} {finding.advice}".lower()
    assert finding.advice
    assert "hush" not in finding.found + finding.advice


def test_a_folder_that_is_not_there_is_wrong_and_not_made(tmp_path: Path) -> None:
    (finding,) = storage.rights(str(tmp_path / "none"))
    assert (finding.mark, finding.found) == ("✗", f"there is no folder {tmp_path / 'none'}")
    assert not (tmp_path / "none").exists()


def test_an_unknown_scheme_is_wrong_with_a_next_step() -> None:
    (finding,) = storage.rights("gs://bucket/x")
    assert finding.mark == "✗"
    assert finding.advice


def test_an_endpoint_that_is_no_address_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost:9000")
    (finding,) = storage.endpoint()
    assert (finding.mark, finding.found) == ("✗", "localhost:9000 cannot be reached: it is no http(s) address")


def test_a_home_that_cannot_be_written_to_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECO_HOME", "/proc/reco")
    (finding,) = machine.disk()
    assert finding.mark == "✗"
    assert finding.found.startswith("/proc/reco cannot be written to")


def test_a_gpu_without_bf16_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    report: dict[str, Any] = {"version": "2", "cuda": "13", "threads": 8, "cpu": "AVX2", "cpu_bf16": False}
    devices = [
        {"name": "V100", "memory_bytes": 32 * 2**30, "bf16": False},
        {"name": "H200", "memory_bytes": 140 * 2**30, "bf16": True},
    ]
    monkeypatch.setattr(machine, "ask", lambda *_: report | {"devices": devices})
    _, old, new = machine.torch()
    assert (old.mark, old.found, old.advice) == ("!", "V100, 32 GiB", "It has no bf16: set train.precision to fp32.")
    assert (new.mark, new.found, new.advice) == ("✓", "H200, 140 GiB, bf16", None)


def test_a_report_that_fails_is_an_error_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["ray", "127.0.0.1:port"]) == 1
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told.keys() == {"error"}
    assert "\n" not in told["error"]


def test_a_spec_is_planned_with_its_memory_or_refused_with_a_reason(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "shards", samples=160)
    spec = tmp_path / "run.yaml"
    spec.write_text(tiny_spec(shards))
    (finding,) = plan.of(str(spec))
    assert finding.mark == "✓"
    assert "20 steps, 5 an epoch · 32 pictures per worker and step · loader memory per worker up to" in finding.found
    spec.write_text(tiny_spec(tmp_path / "nowhere"))
    (finding,) = plan.of(str(spec))
    assert (finding.mark, finding.subject) == ("✗", "plan")
    assert "nowhere" in finding.found
    assert finding.advice
