"""Pages of encoders and of comparisons, over a real MLflow server with real encoders."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric

from jobs.tracking.history import Entry, History
from jobs.tracking.models import CHAMPION
from jobs.tracking.runs import open_run
from tests.encoders import register_random
from tests.service.web.chromium import ACCESSIBLE, launch, opened
from tests.service.web.conftest import Site

MODEL = "web-encoder"


def track(uri: str, run_id: str, temperature: float, knn: float) -> None:
    """What MLflow has of a run that has ended."""
    params = {"method": {"temperature": temperature}, "encoder": {"name": "resnet18"}, "train": {"seed": 0}}
    tags = {"reco.spec_hash": f"{temperature}", "reco.dataset_hash": "d1ce", "reco.code": "abc"}
    run = open_run(uri, experiment="reco", run_id=run_id, name="n", params=params, tags=tags)
    points = [Metric("valid/knn", knn - 2 + step, step, step) for step in range(3)]
    points += [Metric("pictures_seen", 64 * step, step, step) for step in range(3)]
    MlflowClient(uri).log_batch(run.mlflow_run_id, metrics=points)
    run.finish("FINISHED")


@pytest.fixture(scope="module")
def models(site: Site, uri: str) -> Iterator[Site]:
    """A site with an encoder of two versions, the first of which is its champion, as `promote` leaves it."""
    for seed, knn in enumerate((60.0, 66.0)):
        register_random(uri, MODEL, seed=seed, knn=knn)
    checks = ("whole: every file has its SHA-256", "loads: in a fresh process")
    history = History(MODEL, uri)
    history.append(Entry("promote", 1, 0, "the first <one>", "ann", checks=checks), after=0)
    MlflowClient(uri).set_registered_model_alias(MODEL, CHAMPION, "1")
    history.note_made(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        yield site


def test_all_encoders_are_listed_with_their_champion(models: Site) -> None:
    with models.browser("viewer") as client:
        page = client.get("/models").text
    rows = page.split(f'data-row="{MODEL}/')[1:]
    assert [row.split('"')[0] for row in rows] == ["2", "1"]
    champion = rows[1].split("</tr>")[0]
    assert "#i-champion" in champion
    assert ">champion</span>" in champion.replace("</svg>", "")
    assert "#i-champion" not in rows[0].split("</tr>")[0]
    assert "66.0 %" in rows[0]


def test_a_model_shows_who_promoted_what_and_what_the_gates_said(models: Site) -> None:
    with models.browser("viewer") as client:
        page = client.get(f"/models/{MODEL}").text
    history = page.split('id="history-title"')[1]
    assert "version 1: the first &lt;one&gt;" in history
    assert "ann" in history
    assert history.count("#i-succeeded") == 2
    assert "<b>loads</b> in a fresh process" in history
    assert "/promote" not in page
    assert "/rollback" not in page


def test_a_version_shows_its_card_its_files_and_where_it_comes_from(models: Site) -> None:
    with models.browser("viewer") as client:
        page = client.get(f"/models/{MODEL}/versions/2").text
    assert "A random encoder." in page
    assert "encoder.safetensors" in page
    assert "knn@20" in page


def test_what_is_not_registered_is_not_there(models: Site) -> None:
    with models.browser("viewer") as client:
        missing = [client.get(address) for address in ("/models/none", f"/models/{MODEL}/versions/99", "/models/a'b")]
    assert [answer.status_code for answer in missing] == [404, 404, 404]
    assert all("<h1>That did not work</h1>" in answer.text for answer in missing)


@pytest.mark.parametrize("act", ["promote", "rollback"])
def test_only_promoters_change_champions(models: Site, uri: str, act: str) -> None:
    with models.browser("runner") as client:
        asked = client.get(f"/models/{MODEL}/{act}?version=2")
        sent = client.post(f"/models/{MODEL}/{act}", data={"version": 2, "reason": "mine"})
    assert (asked.status_code, sent.status_code) == (403, 403)
    assert MlflowClient(uri).get_registered_model(MODEL).aliases[CHAMPION] == "1"


def test_a_promotion_without_a_reason_is_refused(models: Site) -> None:
    with models.browser("promoter") as client:
        answer = client.post(f"/models/{MODEL}/promote", data={"version": 2, "reason": ""})
    assert answer.status_code == 422


def test_a_comparison_shows_only_what_differs_which_is_better_and_the_curves_of_both(models: Site, uri: str) -> None:
    for run_id, temperature, knn in (("web-warm", 0.2, 60.0), ("web-cold", 0.05, 64.5)):
        models.scene.submit(run_id, name=run_id)
        models.scene.start(run_id)
        models.scene.train(run_id, upto=0.1)
        track(uri, run_id, temperature, knn)
    with models.browser("viewer") as client:
        page = client.get("/compare?run=web-warm&run=web-cold").text
    assert "web-cold is best by valid/knn" in page
    differing = page.split("<h2>Spec</h2>")[1].split("</table>")[0]
    assert "method.temperature" in differing
    assert "encoder.name" not in differing
    chart = page.split('aria-label="Loss: ')[1].split("</figure>")[0]
    assert 'data-name="web-warm"' in chart
    assert 'data-name="web-cold"' in chart


def test_a_comparison_without_mlflow_still_shows_curves_and_says_what_is_missing(models: Site) -> None:
    for run_id in ("web-new-1", "web-new-2"):
        models.scene.submit(run_id, name=run_id)
        models.scene.start(run_id)
        models.scene.train(run_id, upto=0.1)
    with models.browser("viewer") as client:
        page = client.get("/compare?run=web-new-1&run=web-new-2")
        alone = client.get("/compare?run=web-new-1&run=web-new-1")
    assert page.status_code == 200
    assert "There is no run &#39;web-new-1&#39; in MLflow" in page.text
    assert 'data-name="web-new-2"' in page.text
    assert alone.status_code == 422
    assert "two runs or more can be compared" in alone.text.lower()


@pytest.mark.parametrize(("dark", "width"), [(False, 1280), (True, 360)])
def test_these_pages_are_legible_and_labelled_too(models: Site, dark: bool, width: int) -> None:
    addresses = (
        "/models",
        f"/models/{MODEL}",
        f"/models/{MODEL}/versions/1",
        f"/models/{MODEL}/promote?version=2",
        f"/models/{MODEL}/rollback",
        "/compare?run=web-warm&run=web-cold",
    )
    found = {}
    with launch() as browser, opened(browser, models.url, models.scene.token(), dark=dark, width=width) as page:
        for address in addresses:
            answer = page.goto(address)
            assert answer is not None
            assert answer.status == 200
            found[address] = page.evaluate(ACCESSIBLE)
    assert {address: each for address, each in found.items() if each} == {}


@pytest.mark.slow
def test_promote_through_the_gates_be_refused_by_them_and_roll_back(models: Site, uri: str) -> None:
    register_random(uri, MODEL, seed=2, knn=41.0)
    with models.browser("promoter") as client:
        client.timeout = 120
        page = client.get(f"/models/{MODEL}").text
        assert f'href="/models/{MODEL}/promote?version=2"' in page
        done = client.post(f"/models/{MODEL}/promote", data={"version": 2, "reason": "six more"}, follow_redirects=True)
        assert "it is the champion now" in done.text
        assert "version 2, from version 1: six more" in done.text
        refused = client.post(f"/models/{MODEL}/promote", data={"version": 3, "reason": "newer"})
        assert refused.status_code == 409
        assert "does not pass" in refused.text
        assert ">newer</textarea>" in refused.text
        back = client.post(f"/models/{MODEL}/rollback", data={"reason": "slow"}, follow_redirects=True)
    assert "Rolled back" in back.text
    assert MlflowClient(uri).get_registered_model(MODEL).aliases[CHAMPION] == "1"
