"""The pictures of the pages for the README: `python -m tests.service.web.pictures docs/images`."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser

from jobs.tracking.history import Entry, History
from jobs.tracking.models import CHAMPION
from jobs.tracking.server import stop_server, tracking_uri
from tests.service.api.serving import serve
from tests.service.web.chromium import launch, opened
from tests.service.web.scenes import Scene, make_data, open_scene
from tests.service.web.team import populate

MODEL = "photos-encoder"
PICTURES = {
    "web-runs": ("/runs", False, 760),
    "web-run": ("/runs/photos-20261125-0300", False, 900),
    "web-sweep": ("/sweeps/photos-sweep-20261124-2200", True, 900),
    "web-models": (f"/models/{MODEL}", False, 900),
}
"""Address, whether dark, and height."""
_WIDTH = 1280
_CHECKS = (
    "whole: 9 files have the SHA-256 they were registered with",
    "loads: in a fresh process, without pickle",
    "same: its features of 16 pictures differ by at most 3.1e-07 from those at registration",
)


def register(scene: Scene, uri: str) -> None:
    """Encoders, of which the second became the champion."""
    from mlflow import MlflowClient

    from tests.encoders import register_random

    history = History(MODEL, uri)
    for seed, knn in enumerate((68.4, 71.3, 70.1)):
        register_random(uri, MODEL, seed=seed, knn=knn)
    first = Entry("promote", 1, 0, "MoCo v2, the baseline", "ann", checks=_CHECKS)
    better = f"no worse: knn@20 on photos/test is 71.30, version 1 (champion) has {68.4:.2f}"
    second = Entry("promote", 2, 1, "ReCo with the sweep's weights: three points", "ben", checks=(*_CHECKS, better))
    for number, entry in enumerate((first, second)):
        history.append(entry, after=number)
        history.note_made(number + 1)
    MlflowClient(uri).set_registered_model_alias(MODEL, CHAMPION, "2")
    os.environ["MLFLOW_TRACKING_URI"] = uri


def draw(browser: Browser, url: str, secret: str, folder: Path) -> None:
    """Write a PNG of each page."""
    for name, (address, dark, height) in PICTURES.items():
        with opened(browser, url, secret, dark=dark, width=_WIDTH) as page:
            page.set_viewport_size({"width": _WIDTH, "height": height})
            page.goto(address)
            page.wait_for_load_state()
            page.screenshot(path=str(folder / f"{name}.png"))
            print(folder / f"{name}.png")


def main() -> int:
    """Make them."""
    folder = Path(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="reco-") as temporary:
        home = Path(temporary)
        scene = open_scene(home, make_data(home / "photos"))
        try:
            populate(scene)
            register(scene, tracking_uri(home))
            with scene.control, serve(scene.control) as url, launch() as browser:
                draw(browser, url, scene.token(), folder)
        finally:
            stop_server(home)
    return 0


if __name__ == "__main__":
    sys.exit(main())
