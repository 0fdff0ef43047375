"""The method: losses, interpolation, encoders, both queues. Pure torch; no Ray, no MLflow, no files."""

from jobs.reco.encoders import build_encoder
from jobs.reco.losses import distribution_alignment, info_nce
from jobs.reco.model import ReCo, ReCoConfig, StepOutput, StepViews

__all__ = ["ReCo", "ReCoConfig", "StepOutput", "StepViews", "build_encoder", "distribution_alignment", "info_nce"]
