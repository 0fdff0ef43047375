"""The one contract of a run: `RunSpec`, loaded from YAML with every mistake reported at once. Imports no torch."""

from jobs.spec.describe import Option, closest, options
from jobs.spec.document import Mistake
from jobs.spec.loading import SpecError, load_spec, parse_spec, to_yaml
from jobs.spec.models import (
    OUTSIDE_THE_HASH,
    CheckpointSpec,
    DataSpec,
    EncoderSpec,
    GlobalRelationSpec,
    LocalRelationSpec,
    MethodSpec,
    OptimizerSpec,
    ProbeSpec,
    RegisterSpec,
    RunSpec,
    ScaleSpec,
    TrainSpec,
    ViewsSpec,
)

__all__ = [
    "OUTSIDE_THE_HASH",
    "CheckpointSpec",
    "DataSpec",
    "EncoderSpec",
    "GlobalRelationSpec",
    "LocalRelationSpec",
    "MethodSpec",
    "Mistake",
    "OptimizerSpec",
    "Option",
    "ProbeSpec",
    "RegisterSpec",
    "RunSpec",
    "ScaleSpec",
    "SpecError",
    "TrainSpec",
    "ViewsSpec",
    "closest",
    "load_spec",
    "options",
    "parse_spec",
    "to_yaml",
]
