"""The one contract: `RunSpec` and `SweepSpec`, loaded from YAML, every mistake reported at once. Imports no torch."""

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
from jobs.spec.space import RECO_SPACE, Dimension
from jobs.spec.sweep import Sweep, SweepSpec, load_sweep, parse_sweep

__all__ = [
    "OUTSIDE_THE_HASH",
    "RECO_SPACE",
    "CheckpointSpec",
    "DataSpec",
    "Dimension",
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
    "Sweep",
    "SweepSpec",
    "TrainSpec",
    "ViewsSpec",
    "closest",
    "load_spec",
    "load_sweep",
    "options",
    "parse_spec",
    "parse_sweep",
    "to_yaml",
]
