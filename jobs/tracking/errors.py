"""What can go wrong between this project and MLflow."""

from __future__ import annotations

from jobs.errors import RecoError, UserError


class TrackingError(RecoError):
    """MLflow refused a request, or failed to answer it."""


class TrackingUnreachableError(TrackingError, UserError):
    """Nothing that is an MLflow server answers at the address given."""


class UnknownModelError(TrackingError, UserError):
    """No registered encoder, version, alias or folder goes by the reference given."""


class DamagedEncoderError(TrackingError):
    """An encoder's files are incomplete, or their content is not what was registered."""
