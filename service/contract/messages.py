"""What is asked of the service and what it answers, as strict, typed messages that are JSON on the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from service.runs.states import AttemptState, Condition, Kind, State

JsonObject = dict[str, JsonValue]
LONGEST_SPEC = 1 << 17  # reading YAML takes about a second for each 100 kB
RunId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Project = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
SpecText = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_SPEC)]
Overrides = Annotated[list[Annotated[str, StringConstraints(max_length=1000)]], Field(max_length=100)]


class Asked(BaseModel):
    """Of what a client sends: an unknown field is a mistake and not passed over."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Told(BaseModel):
    """Of what the service answers: a client of an older version passes over fields that it does not know."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Submission(Asked):
    """A new run.

    Attributes:
        kind: A run, or a sweep.
        spec: As YAML.
        base: The spec of a sweep's base, as YAML; `spec` then need not name a file that the service can read.
        overrides: `path=value`, as `--set` has them; applied before the spec is stored.
        run_id: Its id; made from its name and the time where it is not given.
        project: Whose it is.
        then_full: Of a sweep: train the best configuration in full afterwards.
    """

    spec: SpecText
    kind: Kind = "run"
    base: SpecText | None = None
    overrides: Overrides = Field(default_factory=list)
    run_id: RunId | None = None
    project: Project = "default"
    then_full: bool = False


class Change(Asked):
    """How a run goes on, or what a fork has that its origin has not.

    Attributes:
        overrides: `path=value`, as `--set` has them.
        run_id: Id of a fork; made from its origin's name and the time where it is not given.
    """

    overrides: Overrides = Field(default_factory=list)
    run_id: RunId | None = None


class AttemptView(Told):
    """One job of a run, as `service.runs.records.Attempt` describes it."""

    number: int
    submission_id: str
    backend: str
    state: AttemptState
    started: datetime
    ended: datetime | None = None
    cause: str | None = None
    exit_code: int | None = None
    step: int | None = None


class EventView(Told):
    """Something that happened to a run; numbered from 1 without gaps."""

    number: int
    at: datetime
    kind: str
    words: str
    data: JsonObject = Field(default_factory=dict)


class RunView(Told):
    """A run as a list shows it.

    Attributes:
        storage: Folder or S3 prefix that its folder is in.
        conditions: Those that hold, and since when.
        progress: How far it is, as its folder said last (`jobs.run_folder.Progress`); None before it said anything.
        progress_at: When that was new to the leader.
    """

    id: str
    name: str
    kind: Kind
    project: str
    owner: str
    state: State
    reason: str
    attempts: int
    version: int
    created: datetime
    updated: datetime
    due: datetime | None = None
    conditions: dict[Condition, datetime] = Field(default_factory=dict)
    spec_hash: str
    lineage: JsonObject = Field(default_factory=dict)
    storage: str
    progress: JsonObject | None = None
    progress_at: datetime | None = None


class RunDetails(RunView):
    """A run with all there is about it but its events and logs.

    Attributes:
        spec: As YAML, with what was changed by `--set`.
        history: Its attempts, the first one first.
        outcome: How the last attempt ended (`jobs.job_folder.Outcome`), where it left word: results, model, MLflow.
    """

    spec: str
    history: list[AttemptView]
    outcome: JsonObject | None = None


class RunPage(Told):
    """A part of a list, from the newest to the oldest.

    Attributes:
        next: Where the next page begins; None after the last one.
        counts: How many runs that fit are in each state; only on the first page.
    """

    runs: list[RunView]
    next: str | None = None
    counts: dict[State, int] | None = None


class LogChunk(Told):
    """A part of an attempt's log, in whole lines.

    Attributes:
        offset: Where it begins, in bytes of the log.
        next_offset: Where the next part begins.
        complete: Nothing more will come.
    """

    attempt: int
    offset: int
    next_offset: int
    text: str
    complete: bool


class CheckpointView(Told):
    """A checkpoint: `whole` ones can be continued from."""

    step: int
    size: int
    state: str


class PlanLine(Told):
    """One thing that will happen, in words: what it is about, and what it will be."""

    name: str
    words: str


class Plan(Told):
    """What will happen if a run is submitted; nothing was stored or started.

    Attributes:
        run_id: The id it would get.
        lines: In the order in which a person wants to know.
        changes: `path: before → now`, against the last run of that name; None where there was none.
        against: That run.
        warnings: What a person should look at first.
    """

    run_id: str
    kind: Kind
    lines: list[PlanLine]
    changes: list[str] | None = None
    against: str | None = None
    warnings: list[str] = Field(default_factory=list)


class Deleted(Told):
    """What was deleted with a run."""

    run_id: str
    objects: int
    bytes: int


class Identity(Told):
    """Who the service takes the caller for.

    Attributes:
        role: viewer, runner, promoter or admin.
        project: The only one that the caller may see; None for all.
    """

    owner: str
    role: str
    project: str | None = None
    version: str


class TokenView(Told):
    """A token without its secret."""

    id: str
    prefix: str
    name: str
    owner: str
    role: str
    project: str | None = None
    created: datetime
    expires: datetime | None = None
    last_used: datetime | None = None
    revoked: datetime | None = None


class NewToken(Asked):
    """A token to be made.

    Attributes:
        days: Until it expires; None for never.
    """

    name: Annotated[str, StringConstraints(min_length=1, max_length=100)]
    owner: Annotated[str, StringConstraints(min_length=1, max_length=100)]
    role: Literal["viewer", "runner", "promoter", "admin"] = "viewer"
    project: Project | None = None
    days: Annotated[int, Field(ge=1, le=3650)] | None = 90


class IssuedToken(TokenView):
    """A token with its secret, which is told this once."""

    secret: str


class TrialView(Told):
    """One trial of a sweep, as the leaderboard has it."""

    number: int
    state: str
    values: JsonObject
    objective: float | None = None
    epochs: float = 0.0
    reason: str = ""


class SweepBoard(Told):
    """A sweep's leaderboard, the best first.

    Attributes:
        metric: What trials are judged by.
        mode: Whether more (`max`) or less (`min`) of it is better.
        wanted: How many trials there are to be.
    """

    sweep_id: str
    metric: str
    mode: str
    wanted: int
    trials: list[TrialView]


class EvaluationView(Told):
    """What an encoder was found to be worth, on which pictures."""

    probe: str
    data: str
    when: str
    metrics: dict[str, float]


class ModelView(Told):
    """One version of a registered encoder."""

    name: str
    version: int
    aliases: list[str]
    knn: float | None = None
    created: datetime
    run_id: str
    mlflow_run_id: str
    metrics: dict[str, float]
    dataset_hash: str
    spec_hash: str
    code: str
    lineage: dict[str, str]
    evaluations: list[EvaluationView]
    url: str


class ModelDetails(ModelView):
    """One version with what its small files say."""

    encoder: JsonObject
    preprocessing: JsonObject
    files: dict[str, int]
    card: str


class ChampionChange(Told):
    """One entry of a model's promotion history."""

    act: str
    version: int
    previous: int
    reason: str
    who: str
    when: str
    checks: list[str] = Field(default_factory=list)


class ModelHistory(Told):
    """All changes of a model's champion, the oldest first, and what the alias points to now (0 for none)."""

    name: str
    champion: int
    changes: list[ChampionChange]


class Promotion(Asked):
    """A wish to change the champion.

    Attributes:
        reference: `name/version`, `name@alias`, or `name` for its candidate.
        reason: Why; the history keeps it.
        margin: How many points worse than the champion it may be.
    """

    reference: Annotated[str, StringConstraints(min_length=1, max_length=300)]
    reason: Annotated[str, StringConstraints(min_length=1, max_length=2000)]
    margin: Annotated[float, Field(ge=0, le=100)] = 0.5


class Rollback(Asked):
    """A wish to bring back the champion before the last change."""

    reason: Annotated[str, StringConstraints(min_length=1, max_length=2000)] = "rolled back"


class DatasetView(Told):
    """A data set that runs were trained on.

    Attributes:
        url: As their specs name it.
        runs: How many used it, and `last` when one last did.
        pictures: In its index; None where that cannot be read, and `problem` says why.
    """

    url: str
    runs: int
    last: datetime
    pictures: int | None = None
    shards: int | None = None
    bytes: int | None = None
    hash: str | None = None
    labelled: bool | None = None
    problem: str | None = None
