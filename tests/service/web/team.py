"""A team's two days with the service: a run in every state, two sweeps; what tests look at, and pictures show."""

from __future__ import annotations

from jobs.run_folder import RunFolder
from service.runs.retry import Cause
from service.runs.schema import JsonObject
from service.runs.states import Condition, Signal
from tests.service.web.scenes import Scene, search


def populate(scene: Scene) -> None:
    """Let it happen."""
    clock = scene.clock
    clock.set_back(hours=38)
    scene.submit("photos-moco-20261124-0910", name="photos-moco")
    scene.start("photos-moco-20261124-0910")
    folder = scene.train("photos-moco-20261124-0910", upto=1, seed=3, best=68.9)
    _finish(scene, folder, "photos-encoder/1", 68.4, hours=29)

    clock.set_back(hours=28)
    scene.submit("lowtemp-20261124-1902", name="lowtemp", owner="ben")
    scene.start("lowtemp-20261124-1902")
    folder = scene.train(
        "lowtemp-20261124-1902", upto=0.08, seed=9, health="temperature too low: loss 1.2 above chance"
    )
    clock.set_back(hours=26.4)
    words = "The loss is no number at step 1,562. It would be so again at the same step: lower optimizer.lr."
    folder.write_outcome({"status": "failed", "exit_code": 1, "error": words, "hint": "Raise method.temperature."})
    scene.move("lowtemp-20261124-1902", Signal.FAILED, words=words, cause=Cause.NAN, step=1400)

    clock.set_back(hours=25)
    scene.sweep("photos-sweep-20261124-2200", name="photos-sweep")
    scene.start("photos-sweep-20261124-2200")
    search(scene, "photos-sweep-20261124-2200", 16, over=True)
    progress: JsonObject = {"phase": "searching", "step": 16, "total_steps": 16, "metrics": {"valid/knn": 47.42}}
    scene.control.store.save_progress("photos-sweep-20261124-2200", progress)
    clock.set_back(hours=19)
    scene.move("photos-sweep-20261124-2200", Signal.SUCCEEDED, words="16 trials; the best has valid/knn 47.4.")

    clock.set_back(hours=18)
    scene.submit("wafers-20261125-0512", name="wafers", owner="cy", project="fab")
    scene.start("wafers-20261125-0512")
    scene.train("wafers-20261125-0512", upto=0.31, seed=5)
    clock.set_back(hours=12)
    scene.move("wafers-20261125-0512", Signal.STOP)
    scene.move("wafers-20261125-0512", Signal.STOPPED)

    clock.set_back(hours=11)
    scene.submit("photos-20261125-0300", name="photos")
    scene.start("photos-20261125-0300")
    scene.log("photos-20261125-0300", _log_lines(40), complete=True)
    clock.set_back(hours=7)
    words = "Its host was taken away (spot). Again in 10 s; a newer checkpoint gives all budgets back."
    scene.move("photos-20261125-0300", Signal.LOST, words=words, cause=Cause.PREEMPTED, step=7_600)
    scene.start("photos-20261125-0300")
    scene.log("photos-20261125-0300", _log_lines(25), attempt=2)

    clock.set_back(hours=5)
    scene.submit("satellite-20261125-0840", name="satellite", owner="cy", project="fab")
    scene.start("satellite-20261125-0840")
    scene.train("satellite-20261125-0840", upto=0.44, seed=7, best=63)
    clock.set_back(minutes=9)
    scene.control.store.set_condition(
        "satellite-20261125-0840", Condition.STARVED, holds=True, words="It waits for data 31 % of the time."
    )

    clock.set_back(hours=3)
    scene.submit("photos-wide-20261125-1030", name="photos-wide", owner="ben")
    scene.start("photos-wide-20261125-1030")
    scene.train("photos-wide-20261125-1030", upto=0.22, seed=11)
    clock.set_back(minutes=1)
    words = "The storage does not answer (503 from datasets). Again in 30 s: try 1 of 20."
    scene.move("photos-wide-20261125-1030", Signal.LOST, words=words, cause=Cause.STORAGE_OUTAGE, step=4_200)

    clock.set_back(hours=1.5)
    scene.sweep("relation-sweep-20261125-1250", name="relation-sweep")
    scene.start("relation-sweep-20261125-1250")
    search(scene, "relation-sweep-20261125-1250", 9, seed=4)
    progress = {"phase": "searching", "step": 8, "total_steps": 16, "metrics": {"valid/knn": 44.1}}
    scene.control.store.save_progress("relation-sweep-20261125-1250", progress)

    clock.set_back(minutes=16)
    scene.submit("photos-nolocal-20261125-1404", name="photos-nolocal", owner="ben")
    clock.set_back(minutes=2)
    scene.submit("digits-20261125-1418", name="digits", owner="dee", project="demo", epochs=20)
    scene.move("digits-20261125-1418", Signal.BEGIN)

    scene.train("photos-20261125-0300", upto=0.63, seed=1)
    clock.set_back(seconds=0)


def _finish(scene: Scene, folder: RunFolder, model: str, knn: float, *, hours: float) -> None:
    results = {"valid/knn": knn, "test/knn": knn - 0.6, "valid/linear": knn + 4.1}
    results |= {"valid/knn_untrained": 38.8, "valid/knn_raw_pixels": 40.3}
    folder.write_outcome({"status": "succeeded", "exit_code": 0, "results": results, "model": model})
    scene.clock.set_back(hours=hours)
    _, progress = scene.control.store.progress_of([folder.run_id])[folder.run_id]
    done: JsonObject = {"phase": "done", "step": progress["total_steps"], "epoch": progress["epochs"]}
    scene.control.store.save_progress(folder.run_id, {**progress, **done})
    scene.move(folder.run_id, Signal.SUCCEEDED)


def _log_lines(number: int) -> list[str]:
    return [
        f"(rank {step % 2}) step {100 * step:>6} · epoch {step / 4:.1f}/100 · loss {12.4 - step / 20:.3f}"
        for step in range(number)
    ]
