"""What features are worth: classifiers on cached features. Pure torch; knows neither files nor other processes."""

from jobs.probes.few_shot import few_shot_rows
from jobs.probes.knn import knn_predictions
from jobs.probes.linear import (
    SGD_PROTOCOL,
    Candidate,
    LinearProtocol,
    fit_linear,
    grid,
    logistic_predictions,
    standardised,
)
from jobs.probes.scores import accuracy, confusion

__all__ = [
    "SGD_PROTOCOL",
    "Candidate",
    "LinearProtocol",
    "accuracy",
    "confusion",
    "few_shot_rows",
    "fit_linear",
    "grid",
    "knn_predictions",
    "logistic_predictions",
    "standardised",
]
