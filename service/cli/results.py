"""What a run gave: results beside their baselines, the registered encoder, and where it is tracked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.cli import output

if TYPE_CHECKING:
    from jobs.job_folder import Outcome

_MEASURES = {"knn": "k-NN", "linear": "linear probe", "rank_me": "RankMe"}
_BASELINES = {"knn_untrained": "untrained encoder, calibrated", "knn_raw_pixels": "raw pixels"}


def show_results(outcome: Outcome | None) -> None:
    """Print what an attempt that succeeded left word of."""
    if not outcome:
        output.note("it left no word of what it gave: its folder cannot be read now", style="yellow")
        return
    _show_measures(outcome.get("results") or {})
    if model := outcome.get("model"):
        output.say(f"✓ registered {model} as candidate; look at it with: reco models show {model}")
    if url := outcome.get("tracking_url"):
        output.say(f"✓ tracked at {url}")


def _show_measures(results: dict[str, float]) -> None:
    if not results:
        return
    k = int(results.get("k", 0))
    table = output.table("", "value", title="What the encoder is worth")
    for key, value in results.items():
        where, _, name = key.partition("/")
        if name in _MEASURES:
            unit = "" if name == "rank_me" else " %"
            shown = f"{_MEASURES[name]} (k = {k})" if name == "knn" else _MEASURES[name]
            table.add_row(f"{shown} on {where}", f"{value:.1f}{unit}", style="bold" if name == "knn" else None)
        elif name in _BASELINES:
            table.add_row(f"  k-NN of {_BASELINES[name]}", f"{value:.1f} %")
    output.show(table)
    judged = next((each for each in ("test", "valid") if f"{each}/knn" in results), None)
    if judged is None:
        return
    knn = results[f"{judged}/knn"]
    if knn <= results[f"{judged}/knn_untrained"]:
        output.say("! the encoder is no better than an untrained one: train longer, or look at the run's health")
    if knn <= results[f"{judged}/knn_raw_pixels"]:
        output.say("! raw pixels are as good here: these pictures are easy to tell apart by their pixels alone")
