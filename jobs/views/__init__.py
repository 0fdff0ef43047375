"""Turns uint8 pictures into augmented, normalised views on the device, batched and without random state."""

from __future__ import annotations

from jobs.views.pictures import Pictures
from jobs.views.views import MEAN, STD, Views, centre_view

__all__ = ["MEAN", "STD", "Pictures", "Views", "centre_view"]
