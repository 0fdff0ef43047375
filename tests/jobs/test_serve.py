"""`jobs.serve` as a process with real Ray Serve: real requests, alone and at once, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import ray
import urllib3

from jobs.embedding.cluster import Share, waiting_said
from jobs.embedding.serving import check_free
from jobs.errors import UserError
from jobs.tracking.files import CONFIG
from tests.jobs.embedding.made import make_encoder, png, slow_vectors

PATIENCE_S = 240.0  # Ray Serve starts in fifteen seconds on two free cores, in a minute or more beside other work
MAX_BYTES = 100_000
pytestmark = pytest.mark.timeout(600)

HTTP = urllib3.PoolManager(retries=False, maxsize=32)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("encoder"))


class Service:
    """The command, on this machine or at a cluster; `url` is where it says it serves, `said` what it said till then."""

    def __init__(self, encoder: Path, home: Path, *options: str, cluster: str | None = None) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        environment |= {"RAY_ADDRESS": cluster} if cluster else {}
        words = ["--port", str(free_port()), "--max-bytes", str(MAX_BYTES), "--max-batch", "8", "--home", str(home)]
        command = [sys.executable, "-m", "jobs.serve", str(encoder), "--cpus", "1", *words, *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        assert self.process.stderr is not None
        self.said = ""
        for line in self.process.stderr:
            self.said += line
            if found := re.search(r" at (http://\S+)/v1/embed with ", line):
                self.url = found[1]
                return
        raise AssertionError(f"it ended with {self.process.wait()}: {self.said}")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(PATIENCE_S)


@pytest.fixture(scope="module")
def service(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(encoder, tmp_path_factory.mktemp("home"))
    yield service
    end(service)


def end(service: Service) -> None:
    if service.process.poll() is None:
        service.process.kill()
        service.process.wait()


@pytest.fixture
def cluster() -> Iterator[str]:
    """Address of a cluster that is not the commands' own."""
    ray.init(address="local", num_cpus=4, num_gpus=0, include_dashboard=False, log_to_driver=False)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


def post(service: Service, body: bytes, kind: str = "image/png") -> urllib3.BaseHTTPResponse:
    return HTTP.request("POST", f"{service.url}/v1/embed", body=body, headers={"Content-Type": kind})


def problem(answer: urllib3.BaseHTTPResponse) -> dict[str, object]:
    assert answer.headers["Content-Type"] == "application/problem+json"
    content: dict[str, object] = json.loads(answer.data)
    assert content["status"] == answer.status
    return content


def test_one_picture_gives_the_vector_of_the_encoder(service: Service, encoder: Path) -> None:
    answer = post(service, png(3))
    assert answer.status == 200
    content = json.loads(answer.data)
    assert content["dim"] == 64
    assert content["sha256"] == json.loads((encoder / CONFIG).read_text())["sha256"]
    np.testing.assert_allclose(content["embeddings"], slow_vectors(encoder, [png(3)]), atol=1e-4)


def test_the_files_of_a_form_are_embedded_together_and_come_back_in_their_order(
    service: Service, encoder: Path
) -> None:
    pictures = [png(number) for number in range(20)]  # more than fit one batch
    fields = [("pictures", (f"{number}.png", data, "image/png")) for number, data in enumerate(pictures)]
    answer = HTTP.request("POST", f"{service.url}/v1/embed", fields=fields)
    assert answer.status == 200
    assert answer.headers["Reco-Batch"] == "8"  # the most that may go together
    np.testing.assert_allclose(json.loads(answer.data)["embeddings"], slow_vectors(encoder, pictures), atol=1e-4)


def test_concurrent_requests_each_get_their_own_vector(service: Service, encoder: Path) -> None:
    pictures = [png(number) for number in range(60)]
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda data: post(service, data), pictures))
    assert {answer.status for answer in answers} == {200}
    found = np.array([json.loads(answer.data)["embeddings"][0] for answer in answers])
    np.testing.assert_allclose(found, slow_vectors(encoder, pictures), atol=1e-4)


def test_a_body_that_is_too_large_is_refused_whether_or_not_it_says_so(service: Service) -> None:
    assert "100,000 bytes" in str(problem(post(service, bytes(MAX_BYTES + 1)))["detail"])

    def chunks() -> Iterator[bytes]:
        for _ in range(4):
            yield bytes(MAX_BYTES // 3)

    answer = HTTP.request("POST", f"{service.url}/v1/embed", body=chunks(), headers={"Content-Type": "image/png"})
    assert answer.status == 413
    problem(answer)


def test_what_cannot_be_decoded_is_named(service: Service) -> None:
    assert problem(post(service, b"no picture"))["detail"] == "the body: neither JPEG, PNG nor WebP"
    assert problem(post(service, b""))["status"] == 422
    fields = [("a", ("a.png", png(1), "image/png")), ("b", ("b.png", png(2)[:60], "image/png"))]
    answer = HTTP.request("POST", f"{service.url}/v1/embed", fields=fields)
    assert answer.status == 422
    assert str(problem(answer)["detail"]).startswith("file 2 (b.png): ")


def test_a_damaged_form_is_a_bad_request(service: Service) -> None:
    for kind in ("multipart/form-data", "multipart/form-data; boundary=here"):
        assert problem(post(service, b"nothing", kind))["status"] == 400


def test_other_methods_and_paths_are_problems_too(service: Service) -> None:
    answer = HTTP.request("GET", f"{service.url}/v1/embed")
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    problem(answer)
    assert problem(HTTP.request("GET", f"{service.url}/v2/embed"))["status"] == 404


def test_it_says_what_it_serves(service: Service, encoder: Path) -> None:
    assert json.loads(HTTP.request("GET", f"{service.url}/healthz").data) == {"status": "ok"}
    model = json.loads(HTTP.request("GET", f"{service.url}/v1/model").data)
    assert model["model"] == str(encoder)
    assert model["feature_dim"] == 64
    assert model["preprocessing"]["image_size"] == 16


def test_a_prefix_that_is_no_path_is_refused(encoder: Path, tmp_path: Path) -> None:
    for prefix in ("photos", "/photos/", "/{photos}"):
        command = [sys.executable, "-m", "jobs.serve", str(encoder), "--prefix", prefix, "--home", str(tmp_path)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (ended.returncode, f"--prefix {prefix} is no path" in ended.stderr) == (2, True), ended.stderr


def test_a_port_that_is_taken_is_told_before_anything_starts(encoder: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        command = [sys.executable, "-m", "jobs.serve", str(encoder), "--port", str(port), "--home", str(tmp_path)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert f"cannot listen at 127.0.0.1:{port}" in ended.stderr


def test_ctrl_c_ends_it_and_frees_its_port(service: Service) -> None:
    """Last, since the others need it."""
    assert service.stop() == 0
    port = urlsplit(service.url).port
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            assert time.monotonic() < deadline, "the port is still taken"
            time.sleep(0.1)
        else:
            break


@pytest.mark.slow
def test_on_a_cluster_nobody_takes_anothers_place_and_each_ends_its_own(
    encoder: Path, cluster: str, tmp_path: Path
) -> None:
    """After the others: their service would have to share two cores with this cluster."""
    other = make_encoder(tmp_path / "other", seed=1)
    first = Service(encoder, tmp_path, cluster=cluster)
    try:
        with pytest.raises(AssertionError, match=f"{first.url}/ is served already, by the application reco-embed"):
            Service(other, tmp_path, cluster=cluster)
        with pytest.raises(UserError, match="by the application reco-embed"):
            check_free("another-name", "/")
        second = Service(other, tmp_path, "--prefix", "/other", cluster=cluster)
        try:
            assert second.url == f"{first.url}/other", "Serve listens where the first command had it listen"
            assert "Ray Serve runs there already" in second.said
            for service, files in ((first, encoder), (second, other)):
                content = json.loads(post(service, png(3)).data)
                assert content["model"] == str(files)
                np.testing.assert_allclose(content["embeddings"], slow_vectors(files, [png(3)]), atol=1e-4)
            # The replica is found, and has a place.
            with waiting_said(Share(1, 1, 0), "ServeReplica:reco-embed-other:", anyones=True, after_s=0.01):
                (watching,) = [thread for thread in threading.enumerate() if thread.name == "waiting"]
                watching.join(30)
                assert not watching.is_alive()
            assert second.stop() == 0
            assert post(first, png(3)).status == 200
        finally:
            end(second)
        assert first.stop() == 0
    finally:
        end(first)
