"""Jobs on a Ray cluster, over the HTTP API of its job server.

Plain requests rather than `ray.job_submission`: that imports all of Ray, and takes its address from RAY_ADDRESS or
RAY_API_SERVER_ADDRESS in the environment, whichever address it is given.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeVar
from urllib.parse import quote, urlsplit

import urllib3
from pydantic import BaseModel, ValidationError

from jobs.errors import UserError
from service.backends.base import Answer, Backend, BackendError, Job, LogPart, Status, UnreachableBackendError

_STATUSES: dict[str, Status] = {
    "PENDING": "pending",
    "RUNNING": "running",
    "SUCCEEDED": "succeeded",
    "FAILED": "failed",
    "STOPPED": "stopped",
}
_EXISTS = "already exists"
_NO_SUCH_JOB = "does not exist"
_REFUSED = "Request failed with status code 400"  # by the node's agent; the head passes it on as its own error 500
_NO_AGENT = "Cannot connect to host"
_LOG_TAIL = ", last available logs"


class _Details(BaseModel):
    """What Ray says of a job, as far as it is read here."""

    submission_id: str | None
    status: Literal["PENDING", "RUNNING", "SUCCEEDED", "FAILED", "STOPPED"]
    message: str | None = None
    error_type: str | None = None
    driver_exit_code: int | None = None


class _Logs(BaseModel):
    logs: str


_Read = TypeVar("_Read", _Details, _Logs)


@dataclass(frozen=True)
class _Reply:
    status: int
    text: str

    @property
    def no_such_job(self) -> bool:
        """Whether Ray itself says so: a proxy without a Ray behind it answers 404 as well."""
        return self.status == 404 and _NO_SUCH_JOB in self.text


class RayJobsBackend(Backend):
    """Each job is a Ray job: its process runs on the head, or with `Job.cpus` on any node that has them free.

    Records and logs of jobs live as long as the head does. A job's environment and command can be read by everybody who
    may ask the job server, so neither may hold a secret; the job inherits those of the node it runs on.

    Args:
        address: Of the job server, as `http://HOST:8265`; it may end in a path.
        token: What Ray wants where its token authentication is on.
        timeout_s: How long it may stay silent.
        grace_s: How long a job may take to end when it is asked to; Ray's own default is 3 s.
        place: Where its jobs are, in other words than the address: where that may change, or come to be another's.
    """

    name: ClassVar[str] = "ray"

    def __init__(
        self,
        address: str,
        token: str | None = None,
        *,
        timeout_s: float = 10.0,
        grace_s: float = 30.0,
        place: str | None = None,
    ) -> None:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            shown = "the given address" if parts.username else repr(address)
            raise UserError(f"{shown} is no address of a Ray job server.", hint="Give it as http://HOST:8265.")
        self._address = address.rstrip("/")
        self._place = place or f"{self.name}:{self._address}"
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._grace_s = grace_s
        self._http = urllib3.PoolManager(
            retries=False, timeout=urllib3.Timeout(connect=timeout_s, read=timeout_s), maxsize=4
        )

    @property
    def place(self) -> str:
        """See `Backend.place`."""
        return self._place

    def submit(self, submission_id: str, job: Job) -> bool:
        """See `Backend.submit`."""
        # A shell runs it; `exec` makes exit code and signals those of the program rather than of the shell.
        asked: dict[str, object] = {
            "submission_id": submission_id,
            "entrypoint": f"exec {shlex.join(job.command)}",
            "runtime_env": {
                "env_vars": {**job.environment, "RAY_JOB_STOP_WAIT_TIME_S": str(max(1, round(self._grace_s)))}
            },
            "metadata": {**job.metadata},
        }
        if job.cpus:
            asked["entrypoint_num_cpus"] = job.cpus
        reply = self._ask("POST", "", asked)
        if reply.status == 200:
            return True
        if _EXISTS in reply.text:  # as an error 500 with a traceback: so the words are checked against the job itself
            if self.look(submission_id).status != "absent":
                return False
            raise UnreachableBackendError(f"Ray at {self._address} has a job {submission_id} and does not show it.")
        if reply.status == 400 or _REFUSED in reply.text:
            raise BackendError(
                f"Ray at {self._address} refuses the job {submission_id}: {_last_line(reply.text)}",
                hint="Correct what it names.",
            )
        raise self._no_answer(reply)

    def look(self, submission_id: str) -> Answer:
        """See `Backend.look`."""
        reply = self._ask("GET", _quoted(submission_id))
        if reply.no_such_job:
            return Answer("absent")
        details = self._read(reply, _Details)
        if details.submission_id != submission_id:  # Ray also looks among the ids it gives to drivers itself
            return Answer("absent")
        return Answer(_STATUSES[details.status], details.driver_exit_code, _words(details))

    def stop(self, submission_id: str) -> None:
        """See `Backend.stop`."""
        reply = self._ask("POST", f"{_quoted(submission_id)}/stop")
        if reply.status != 200 and not reply.no_such_job:
            raise self._no_answer(reply)

    def log(self, submission_id: str, offset: int) -> LogPart:
        """See `Backend.log`.

        Ray sends the whole log each time, or a stream that follows it. The stream is not used: when it is closed, with
        code 1000 or any other, nobody can tell whether the log is at its end or a proxy was restarted.
        """
        log = self._whole_log(submission_id)
        if not log.endswith(b"\n") and len(log) > offset and self.look(submission_id).ended:
            log = self._whole_log(submission_id)  # read after the job's end: its last line is as long as it will be
        else:
            log = log[: log.rfind(b"\n") + 1]
        data = log[offset:]
        return LogPart(data, offset + len(data))

    def _whole_log(self, submission_id: str) -> bytes:
        reply = self._ask("GET", f"{_quoted(submission_id)}/logs")
        if reply.no_such_job:
            return b""
        if reply.status == 500 and _NO_AGENT in reply.text and self.look(submission_id).ended:
            return b""  # gone with the host that the job ran on
        if reply.status == 500 and "UnicodeDecodeError" in reply.text:
            # Ray reads it as strict UTF-8. Mostly this is a letter of which one half is written, and comes whole later.
            if not self.look(submission_id).ended:
                return b""
            raise BackendError(
                f"Ray cannot read the log of {submission_id}: it is not UTF-8.",
                hint=f"It is on the job's host, as logs/job-driver-{submission_id}.log in Ray's session folder.",
            )
        return self._read(reply, _Logs).logs.encode(errors="replace")

    def _ask(self, method: str, path: str, body: dict[str, object] | None = None) -> _Reply:
        """One request.

        Raises:
            BackendError: It wants another token.
            UnreachableBackendError: No answer.
        """
        try:
            response = self._http.request(
                method,
                f"{self._address}/api/jobs/{path}",
                body=None if body is None else json.dumps(body),
                headers={**self._headers, "Content-Type": "application/json"},
                redirect=False,
            )
        except urllib3.exceptions.HTTPError as error:
            raise UnreachableBackendError(
                f"Ray's job server at {self._address} does not answer: {error}.",
                hint="Is the cluster up, with its dashboard, and reachable from here?",
            ) from error
        if response.status in (401, 403):
            wanted = "wants a token" if response.status == 401 else "refuses the token it was given"
            raise BackendError(
                f"Ray's job server at {self._address} {wanted}: {response.data.decode(errors='replace')[:200]}",
                hint="Give this service the cluster's token, the one in RAY_AUTH_TOKEN on its head.",
            )
        return _Reply(response.status, response.data.decode(errors="replace"))

    def _read(self, reply: _Reply, kind: type[_Read]) -> _Read:
        if reply.status != 200:
            raise self._no_answer(reply)
        try:
            return kind.model_validate_json(reply.text)
        except ValidationError as error:
            raise self._no_answer(reply) from error

    def _no_answer(self, reply: _Reply) -> UnreachableBackendError:
        """For what says nothing of a job: an error of the server or of a proxy, or somebody else's page."""
        return UnreachableBackendError(
            f"Ray's job server at {self._address} answers {reply.status}: {_last_line(reply.text)}",
            hint="If this lasts, look at its dashboard's log, and whether a proxy answers for it.",
        )


def _quoted(submission_id: str) -> str:
    return quote(submission_id, safe="")


def _words(details: _Details) -> str:
    """What Ray says in a line, where it says more than the status does."""
    if details.status not in ("PENDING", "FAILED"):
        return ""
    said = " ".join((details.message or "").split(_LOG_TAIL)[0].split())
    return f"{details.error_type}: {said}"[:500] if details.error_type else said[:500]


def _last_line(text: str) -> str:
    """Of a traceback, what it comes to."""
    lines = [line.strip() for line in text.splitlines() if line.strip(" .")]
    return lines[-1][:300] if lines else "nothing"
