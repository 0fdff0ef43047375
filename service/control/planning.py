"""What will happen if a run is submitted, in the order in which a person wants to know; nothing is started."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import BaseModel

from jobs.errors import RecoError
from jobs.shards.index import load_root
from jobs.shards.sources import find_shards
from jobs.spec import RunSpec, Sweep
from jobs.storage import NotFoundError, StorageError
from service.contract.messages import Plan, PlanLine
from service.control.job import PATIENCE_S
from service.control.specs import Checked, parsed_of
from service.runs.records import Run
from service.runs.retry import POLICIES, Cause
from service.runs.schema import JsonObject
from service.settings import Settings

_FLOAT = 4  # bytes of a number in a queue
_ENDS = {
    Cause.PREEMPTED: "its host is taken away",
    Cause.NODE_LOST: "its host dies",
    Cause.STORAGE_OUTAGE: "the storage is away",
    Cause.TRACKING_OUTAGE: "MLflow is away",
    Cause.OUT_OF_MEMORY: "memory runs out",
    Cause.UNKNOWN: "nobody knows why it ended",
}
"""What ends an attempt and may be tried again, in words."""


def plan(found: Checked, run_id: str, settings: Settings, last: Run | None, progress: JsonObject | None) -> Plan:
    """The plan of a submission.

    Args:
        found: What is submitted.
        run_id: The id it would get.
        settings: Of the service.
        last: The last run of its name.
        progress: What that one said last: its speed and memory are the measurements there are.
    """
    parsed = found.parsed
    warnings: list[str] = []
    whole = _of_run(parsed, last, progress, warnings) if isinstance(parsed, RunSpec) else _of_sweep(parsed)
    lines = {
        **dict(whole),
        "folder": f"{settings.storage}/{run_id}",
        "runs on": _place(settings),
        "tried again": _retries(),
    }
    return Plan(
        run_id=run_id,
        kind=found.kind,
        lines=[PlanLine(name=name, words=words) for name, words in lines.items()],
        changes=None if last is None else _changes(last, parsed),
        against=None if last is None else last.id,
        warnings=warnings,
    )


def _of_run(
    spec: RunSpec, last: Run | None, progress: JsonObject | None, warnings: list[str]
) -> Iterator[tuple[str, str]]:
    scale, method, train = spec.scale, spec.method, spec.train
    gpus = _counted(scale.gpus_per_worker, "GPU") if scale.gpus_per_worker else "no GPU"
    least = f", at least {scale.min_workers}" if scale.min_workers else ""
    yield "workers", f"{scale.workers}{least}, each with {gpus} and {_counted(scale.cpus_per_worker, 'CPU core')}"
    yield (
        "batch",
        (
            f"{train.global_batch_size} pictures a step, {train.global_batch_size // scale.workers} a worker, "
            f"in {method.groups} groups"
        ),
    )
    yield "negatives", f"{method.queue_size:,} for each query"
    pictures = _pictures(spec, warnings)
    steps = None if pictures is None else pictures // train.global_batch_size
    if pictures is not None and steps is not None:
        yield "data", f"{pictures:,} pictures in {_places(spec)}"
        yield "length", f"{train.epochs} epochs of {steps:,} steps, {train.epochs * steps:,} in all"
        if steps == 0:
            warnings.append("There are fewer pictures than one global batch: it cannot train.")
    else:
        yield "data", _places(spec)
        yield "length", f"{train.epochs} epochs"
    said = progress if progress is not None and last is not None and _as_costly(last, spec) else {}
    speed = said.get("pictures_per_s")
    if last is not None and pictures and isinstance(speed, int | float) and speed > 0:
        seconds = pictures / speed
        yield (
            "time",
            (
                f"{_duration(seconds)} an epoch, {_duration(seconds * train.epochs)} in all, at the "
                f"{speed:,.0f} pictures/s of {last.id}"
            ),
        )
    queues = 2 * method.queue_size * method.projection_dim * _FLOAT
    measured = said.get("memory_gb")
    known = f"; {last.id} took {measured:.1f} GB" if last is not None and isinstance(measured, int | float) else ""
    yield "memory", f"{_size(queues)} of queues on each worker, besides encoders and activations{known}"
    yield "checkpoints", f"every {spec.checkpoint.every}, the newest {spec.checkpoint.keep} are kept"
    yield "registers", "nothing: the spec names no model" if spec.register is None else spec.register.model
    if spec.data.probe is None:
        warnings.append("No labelled pictures are named (data.probe): the encoder is judged by RankMe only.")


def _of_sweep(sweep: Sweep) -> Iterator[tuple[str, str]]:
    yield "trials", f"{sweep.trials}, of up to {sweep.epochs} epochs each"
    yield "judged", f"by {sweep.metric} after epochs {', '.join(map(str, sweep.rungs))}"
    yield "searched", ", ".join(sweep.space)
    yield "data", _places(sweep.base)


def _as_costly(last: Run, spec: RunSpec) -> bool:
    """Whether a step of the last run is measure of this one's."""
    try:
        before = parsed_of(last)
    except RecoError:
        return False
    if not isinstance(before, RunSpec):
        return False
    same = before.encoder == spec.encoder and before.data.image_size == spec.data.image_size
    share = before.train.global_batch_size / before.scale.workers == spec.train.global_batch_size / spec.scale.workers
    on = (before.scale.workers, before.scale.gpus_per_worker) == (spec.scale.workers, spec.scale.gpus_per_worker)
    return same and share and on and before.train.precision == spec.train.precision


def _pictures(spec: RunSpec, warnings: list[str]) -> int | None:
    try:
        parts = find_shards(spec.data.train, patience_s=PATIENCE_S)
        roots = [load_root(*part.index_place(spec.data.index, patience_s=PATIENCE_S)) for part in parts]
    except NotFoundError:
        warnings.append("The data set has no index yet: the run builds it first, reading every shard once.")
        return None
    except StorageError as error:
        warnings.append(f"The data set cannot be read from here: {error.message}")
        return None
    except RecoError as error:
        warnings.append(str(error))
        return None
    return sum(entry.count for root in roots for entry in root.shards)


def _places(spec: RunSpec) -> str:
    train = spec.data.train
    return train if isinstance(train, str) else ", ".join(train)


def _place(settings: Settings) -> str:
    match settings.backend:
        case "ray":
            return f"the Ray cluster at {settings.ray_jobs}"
        case "kuberay":
            return f"Kubernetes, as a RayJob in namespace {settings.kuberay_namespace}"
        case _:
            return "this machine"


def _retries() -> str:
    again = [words for cause, words in _ENDS.items() if POLICIES[cause].again > 1]
    once = [words for cause, words in _ENDS.items() if POLICIES[cause].again == 1]
    return f"when {', '.join(again)}; once when {', '.join(once)}; never for what would only happen again"


def _changes(last: Run, now: RunSpec | Sweep) -> list[str]:
    try:
        before = parsed_of(last)
    except RecoError:
        return ["it was stored by another version of this project"]
    was, is_ = _flat(before), _flat(now)
    paths = [*was, *(path for path in is_ if path not in was)]
    return [f"{path}: {was.get(path, '–')} → {is_.get(path, '–')}" for path in paths if was.get(path) != is_.get(path)]


def _flat(parsed: RunSpec | Sweep) -> dict[str, object]:
    if isinstance(parsed, Sweep):
        return {**_flat_model(parsed.spec), **{f"base.{path}": it for path, it in _flat_model(parsed.base).items()}}
    return _flat_model(parsed)


def _flat_model(model: BaseModel) -> dict[str, object]:
    return dict(_leaves("", model.model_dump(mode="json")))


def _leaves(path: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping) and value:
        for name, each in value.items():
            yield from _leaves(f"{path}.{name}" if path else str(name), each)
    else:
        yield path, value


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _size(size: float) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 1e3:.0f} kB"


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
