"""What is Ray's own: tokens, servers that are away, hang, or are not Ray's at all, and what its API shows to others."""

from __future__ import annotations

import contextlib
import http.server
import random
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import urllib3

from jobs.errors import UserError
from jobs.storage.local import LocalStorage
from service.backends.base import Answer, Backend, BackendError, Job, LogPart, UnreachableBackendError
from service.backends.ray_jobs import RayJobsBackend
from service.runs.logs import LogCopies, RunLog
from service.runs.retry import Cause, Evidence, classify
from tests.s3 import free_port
from tests.service.backends.places import end_of, log_of, shell, until
from tests.service.backends.ray_head import RayHead, serve_ray

Call = Callable[[Backend, str], object]

CALLS: dict[str, Call] = {
    "submit": lambda backend, job_id: backend.submit(job_id, shell("true")),
    "look": lambda backend, job_id: backend.look(job_id),
    "stop": lambda backend, job_id: backend.stop(job_id),
    "log": lambda backend, job_id: backend.log(job_id, 0),
}


@pytest.fixture(params=CALLS)
def call(request: pytest.FixtureRequest) -> Call:
    """Each method of a backend, as a call for some job."""
    return CALLS[request.param]


@pytest.mark.parametrize(("token", "words"), [("wrong", "refuses the token"), (None, "wants a token")])
def test_a_wrong_token_is_refused_with_what_to_do(
    ray_head: RayHead, job_id: str, call: Call, token: str | None, words: str
) -> None:
    with pytest.raises(BackendError, match=words) as caught:
        call(RayJobsBackend(ray_head.address, token), job_id)
    assert "RAY_AUTH_TOKEN" in (caught.value.hint or "")
    assert RayJobsBackend(ray_head.address, ray_head.token).look(job_id) == Answer("absent")


def test_a_port_that_nobody_listens_on_is_unreachable(call: Call) -> None:
    with pytest.raises(UnreachableBackendError, match="does not answer"):
        call(RayJobsBackend(f"http://127.0.0.1:{free_port()}"), "run-a1")


def test_a_job_server_that_hangs_is_unreachable_and_its_job_is_none_the_worse(
    ray_head: RayHead, job_id: str, tmp_path: Path
) -> None:
    backend = RayJobsBackend(ray_head.address, ray_head.token)
    backend.submit(job_id, shell(f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done"))
    with _hanging(ray_head):
        for name in ("look", "log"):
            with pytest.raises(UnreachableBackendError, match="does not answer"):
                CALLS[name](RayJobsBackend(ray_head.address, ray_head.token, timeout_s=0.3), job_id)
    (tmp_path / "go").touch()
    assert end_of(backend, job_id) == Answer("succeeded", 0)


def test_a_submit_that_was_not_answered_is_repeated_without_a_second_job(
    ray_head: RayHead, job_id: str, tmp_path: Path
) -> None:
    job = shell(f"echo started >> {tmp_path}/starts")
    with _hanging(ray_head), pytest.raises(UnreachableBackendError):
        RayJobsBackend(ray_head.address, ray_head.token, timeout_s=0.3).submit(job_id, job)
    backend = RayJobsBackend(ray_head.address, ray_head.token)
    until(lambda: backend.look(job_id).status != "absent")  # it had arrived: Ray took it up after all
    assert backend.submit(job_id, job) is False
    assert end_of(backend, job_id).status == "succeeded"
    assert (tmp_path / "starts").read_text() == "started\n"


@pytest.mark.parametrize(
    ("status", "page"),
    [
        (404, "default backend - 404"),
        (502, "Bad Gateway"),
        (500, "Internal Server Error"),
        (200, "<html>Sign in</html>"),
        (302, ""),
        (429, "Too Many Requests"),
    ],
)
def test_what_a_proxy_says_without_a_ray_behind_it_is_no_answer(status: int, page: str) -> None:
    with _answering(status, page) as address:
        backend = RayJobsBackend(address, "token")
        for call in (CALLS["look"], CALLS["log"]):
            with pytest.raises(UnreachableBackendError, match=str(status)):
                call(backend, "run-a1")
        if status != 200:
            for call in (CALLS["submit"], CALLS["stop"]):
                with pytest.raises(UnreachableBackendError, match=str(status)):
                    call(backend, "run-a1")


def test_the_environment_does_not_choose_another_server(
    ray_head: RayHead, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    assert RayJobsBackend(f"{ray_head.address}/", ray_head.token).look(job_id) == Answer("absent")


def test_what_ray_shows_of_a_job_has_nothing_that_was_not_given_with_it(
    ray_head: RayHead, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2-of-the-service")
    backend = RayJobsBackend(ray_head.address, ray_head.token, grace_s=45)
    backend.submit(job_id, Job(["true"], {"GIVEN": "1"}, {"run": "run1"}))
    end_of(backend, job_id)
    shown = urllib3.request(
        "GET", f"{ray_head.address}/api/jobs/{job_id}", headers={"Authorization": f"Bearer {ray_head.token}"}
    )
    assert shown.json()["runtime_env"] == {"env_vars": {"GIVEN": "1", "RAY_JOB_STOP_WAIT_TIME_S": "45"}}
    assert shown.json()["metadata"] == {"run": "run1"}
    assert b"hunter2" not in shown.data
    assert ray_head.token.encode() not in shown.data


def test_a_request_that_ray_cannot_read_is_refused_for_good(ray_head: RayHead, job_id: str) -> None:
    backend = RayJobsBackend(ray_head.address, ray_head.token)
    with pytest.raises(BackendError, match="metadata"):
        backend.submit(job_id, Job(["true"], metadata={"run": 1}))  # type: ignore[dict-item]
    assert backend.look(job_id) == Answer("absent")


def test_a_letter_of_which_half_is_written_is_told_when_it_is_whole(
    ray_head: RayHead, job_id: str, tmp_path: Path
) -> None:
    backend = RayJobsBackend(ray_head.address, ray_head.token)
    wait = "while [ ! -e {0}/{1} ]; do sleep 0.05; done"
    begin, go = wait.format(tmp_path, "begin"), wait.format(tmp_path, "go")
    backend.submit(
        job_id, shell(f"{begin}; printf 'sch\\303'; touch {tmp_path}/half; {go}; printf '\\266ne\\n'; sleep 300")
    )
    # Ray writes this line when the job has begun already, maybe into the middle of one of its lines.
    until(lambda: b"Running entrypoint" in log_of(backend, job_id))
    before = len(log_of(backend, job_id))
    (tmp_path / "begin").touch()
    until(lambda: (tmp_path / "half").exists())
    assert backend.log(job_id, before) == LogPart(b"", before)
    (tmp_path / "go").touch()
    until(lambda: backend.log(job_id, before).data == "schöne\n".encode())
    backend.stop(job_id)


def test_a_log_that_ray_cannot_read_says_where_it_is(ray_head: RayHead, job_id: str) -> None:
    backend = RayJobsBackend(ray_head.address, ray_head.token)
    backend.submit(job_id, shell("printf '\\377\\n'"))
    assert end_of(backend, job_id).status == "succeeded"
    with pytest.raises(BackendError, match="not UTF-8") as caught:
        backend.log(job_id, 0)
    assert f"job-driver-{job_id}.log" in (caught.value.hint or "")


def test_a_proxy_that_closes_connections_within_answers_loses_and_doubles_no_line(
    ray_head: RayHead, job_id: str, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    lines = "i=$1; while [ $i -lt $2 ]; do echo line $i; i=$((i+1)); done"
    told = f"tell() {{ {lines}; }}; tell 0 700; while [ ! -e {go} ]; do sleep 0.05; done; tell 700 1400"
    RayJobsBackend(ray_head.address, ray_head.token).submit(job_id, shell(told))
    log, copies, now, cut = RunLog(LocalStorage(tmp_path / "run"), 1), LogCopies(every_s=0), datetime.now(UTC), 0
    with _cutting(ray_head, random.Random(7)) as address:
        backend = RayJobsBackend(address, ray_head.token)

        def copied() -> bool:
            nonlocal cut
            try:
                answer = backend.look(job_id)
                complete = copies.copy(backend, job_id, log, now, ended=answer.ended)
            except UnreachableBackendError:
                cut += 1
                return False
            if b"line 699\n" in log.read(0).data:
                go.touch()
            return complete

        until(copied)
    printed = [line for line in log.read(0).data.decode().splitlines() if line.startswith("line ")]
    assert printed == [f"line {number}" for number in range(1400)]
    assert cut > 2


def test_a_failed_job_has_its_error_in_words_without_its_log(ray_head: RayHead, job_id: str) -> None:
    backend = RayJobsBackend(ray_head.address, ray_head.token)
    backend.submit(job_id, shell("echo out of memory, says the log; exit 7"))
    answer = end_of(backend, job_id)
    assert answer.words == "JOB_ENTRYPOINT_COMMAND_ERROR: Job entrypoint command failed with exit code 7"


@pytest.mark.parametrize(
    "address", ["ray://head:10001", "head:8265", "auto", "http://", "http://user:secret@head:8265"]
)
def test_what_is_no_address_of_a_job_server_is_a_users_mistake(address: str) -> None:
    with pytest.raises(UserError, match="no address of a Ray job server") as caught:
        RayJobsBackend(address)
    assert "secret" not in str(caught.value)


def test_neither_ray_nor_torch_is_imported() -> None:
    code = "import sys, service.backends.ray_jobs, service.backends.local; print({'ray', 'torch'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.slow
def test_a_head_that_dies_is_unreachable_and_a_new_one_knows_no_job(job_id: str) -> None:
    with serve_ray() as head:
        backend = RayJobsBackend(head.address, head.token)
        backend.submit(job_id, shell("sleep 300"))
        until(lambda: backend.look(job_id) == Answer("running"))
        head.kill()
        for name in CALLS:
            with pytest.raises(UnreachableBackendError):
                CALLS[name](backend, job_id)
    with serve_ray() as head:
        assert RayJobsBackend(head.address, head.token).look(job_id) == Answer("absent")


@pytest.mark.slow
def test_a_job_whose_host_dies_has_failed_for_that_and_has_no_log_any_more() -> None:
    with serve_ray(cpus=0) as head, head.joined() as node:
        backend = RayJobsBackend(head.address, head.token, timeout_s=30)
        backend.submit("run-a1", Job(["sh", "-c", "echo told; sleep 300"], cpus=1))
        until(lambda: b"told\n" in log_of(backend, "run-a1"))
        for process in [*psutil.Process(node.pid).children(recursive=True), node]:
            process.kill()
        answer = end_of(backend, "run-a1")
        assert (answer.status, answer.exit_code) == ("failed", None)
        assert classify(Evidence(message=answer.words)).cause is Cause.NODE_LOST
        assert backend.log("run-a1", 5) == LogPart(b"", 5)


@contextlib.contextmanager
def _hanging(head: RayHead) -> Iterator[None]:
    (server,) = head.daemons("dashboard/dashboard.py")
    server.suspend()
    try:
        yield
    finally:
        server.resume()


@contextlib.contextmanager
def _answering(status: int, page: str) -> Iterator[str]:
    """A server that answers everything in one way."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Length", str(len(page)))
            if status == 302:
                self.send_header("Location", "/")
            self.end_headers()
            self.wfile.write(page.encode())

        do_POST = do_GET  # noqa: N815 - the name that http.server looks for

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def _cutting(head: RayHead, drawn: random.Random) -> Iterator[str]:
    """A proxy that closes each connection after some bytes of answers, mostly in the middle of one."""
    target = urlsplit(head.address)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection((target.hostname, target.port)) as upstream:
                threading.Thread(target=_pass_on, args=(self.request, upstream, 1 << 30), daemon=True).start()
                _pass_on(upstream, self.request, drawn.randrange(200, 60_000))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


def _pass_on(source: socket.socket, target: socket.socket, most: int) -> None:
    """Pass bytes on until there are no more, or there were so many; then close both ways."""
    with contextlib.suppress(OSError):
        while most > 0 and (data := source.recv(min(most, 4096))):
            target.sendall(data)
            most -= len(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
