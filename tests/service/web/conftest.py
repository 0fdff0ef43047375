"""A service with a team's runs for tests that only look, and one for those that change something."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from service.api.gate import COOKIE
from tests.service.api.serving import serve
from tests.service.web.scenes import Scene, make_data, open_scene
from tests.service.web.team import populate


@dataclass
class Site:
    """A service and its pages.

    Attributes:
        scene: The service.
        url: Where its pages are.
    """

    scene: Scene
    url: str

    def browser(self, role: str | None = "admin", project: str | None = None) -> httpx.Client:
        """Somebody who is logged in with a token of that role, and whose requests come from the pages themselves."""
        client = httpx.Client(base_url=self.url, headers={"Origin": self.url}, timeout=30)
        if role is not None:
            client.cookies.set(COOKIE, self.scene.token(role, owner=role, project=project))
        return client


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Iterator[Site]:
    """To be looked at only: the tests of a module share it."""
    scene = open_scene(tmp_path_factory.mktemp("team"), data)
    populate(scene)
    with scene.control, serve(scene.control) as url:
        yield Site(scene, url)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Iterator[Site]:
    """To be changed: each test makes runs of its own in it."""
    scene = open_scene(tmp_path_factory.mktemp("site"), data)
    with scene.control, serve(scene.control) as url:
        yield Site(scene, url)
