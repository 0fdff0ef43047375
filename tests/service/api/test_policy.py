"""Which data a spec from elsewhere may name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jobs.errors import UserError
from service.api.errors import DataNotAllowedError
from service.api.policy import DataPolicy
from service.api.settings import ApiSettings
from service.contract.messages import Change, RunDetails, Submission
from service.runs.states import State
from tests.service.api.serving import SPEC, Api

TRAIN = "s3://datasets/photos/train"


def submission(url: str, option: str = "data.train") -> Submission:
    return Submission(spec=SPEC, overrides=[f"{option}={url!r}"])


def refused(url: str, option: str = "data.train", **settings: object) -> str | None:
    """Why a spec may not name an address."""
    try:
        DataPolicy(replace(ApiSettings(), **settings)).check(submission(url, option))  # type: ignore[arg-type]
    except DataNotAllowedError as error:
        return error.message
    return None


@pytest.mark.parametrize(
    "url",
    [
        "/etc/passwd",
        "relative/folder",
        "~/.ssh",
        "file:///etc",
        "FILE:///etc",
        "http://169.254.169.254/latest/meta-data",
        "https://elsewhere.example/x",
        "gs://bucket/x",
        "s3://datasets/../secrets",
        "s3://datasets/photos/./x",
        "s3://datasets/{a,..}/x",
        "s3://datasets/{a,b/../../c}.tar",
        "s3://key:secret@datasets/x",
        "s3://user@datasets/x",
        "s3:/datasets",
        "S3://datasets",
        "{s3://datasets/a,/etc/b}.tar",
    ],
)
def test_what_is_no_plain_address_in_s3_is_refused(url: str) -> None:
    assert refused(url) is not None


@pytest.mark.parametrize("url", [TRAIN, "s3://b/a b", "s3://b/{000..017}.tar", "s3://b/x..y/z"])
def test_what_is_in_s3_is_allowed_by_default(url: str) -> None:
    assert refused(url) is None


@pytest.mark.parametrize(
    ("url", "fine"),
    [
        ("s3://datasets", True),
        ("s3://datasets/x", True),
        ("s3://datasets-secret/x", False),
        ("s3://other/datasets", False),
        ("/data/photos", True),
        ("/database", False),
        ("/data/../etc", False),
    ],
)
def test_only_what_lies_below_an_allowed_prefix_is_allowed(url: str, fine: bool) -> None:
    assert (refused(url, allowed_data=("s3://datasets/", "/data")) is None) == fine


def test_local_folders_are_allowed_where_the_service_is_started_so() -> None:
    assert refused("/home/me/photos", allow_local=True) is None
    assert refused("/home/me/../you", allow_local=True) is not None
    assert refused("file:///home/me", allow_local=True) is not None


@pytest.mark.parametrize("option", ["data.train", "data.index"])
def test_every_option_that_is_an_address_is_judged(option: str) -> None:
    assert refused("/etc", option) is not None
    assert refused(TRAIN, option) is None


def test_the_probes_addresses_are_judged() -> None:
    policy = DataPolicy(ApiSettings())
    for name in ("train", "valid", "test"):
        places = dict.fromkeys(("train", "valid", "test"), TRAIN) | {name: "/etc"}
        probe = ", ".join(f"{each}: {url}" for each, url in places.items())
        with pytest.raises(DataNotAllowedError, match="/etc"):
            policy.check(Submission(spec=SPEC, overrides=[f"data.probe={{{probe}}}"]))


def test_every_address_of_a_list_is_judged_and_all_are_told() -> None:
    with pytest.raises(DataNotAllowedError, match=r"/etc.*/var"):
        DataPolicy(ApiSettings()).check(Submission(spec=SPEC, overrides=[f"data.train=[{TRAIN}, /etc, /var]"]))


def test_a_sweep_is_judged_with_its_base_and_its_space() -> None:
    policy = DataPolicy(ApiSettings())
    sweep = "name: photos\nbase: base.yaml\nspace:\n  method.temperature: {choice: [0.1, 0.2]}\n"
    good = Submission(kind="sweep", spec=sweep, base=SPEC)
    policy.check(good)
    with pytest.raises(DataNotAllowedError):
        policy.check(good.model_copy(update={"base": SPEC.replace(TRAIN, "/etc")}))
    varied = f"{sweep}  data.train: {{choice: [{TRAIN}, /etc]}}\n"
    with pytest.raises(DataNotAllowedError):
        policy.check(good.model_copy(update={"spec": varied}))
    with pytest.raises(UserError, match="base"):
        policy.check(good.model_copy(update={"base": None}))


def test_a_few_braces_do_not_keep_the_service_busy() -> None:
    assert "more than" in (refused("s3://b/" + "{a,b}" * 40 + ".tar") or "")
    assert "more than" in (refused("s3://b/{0..9999999}{0..9999999}.tar") or "")


def test_a_cache_is_a_folder_of_the_hosts() -> None:
    for folder in ("relative", "/var/../etc", "s3://bucket/cache"):
        assert refused(folder, "scale.cache_folder") is not None
    assert refused("/mnt/cache", "scale.cache_folder") is None


def test_the_api_refuses_a_spec_before_anything_is_read(api: Api) -> None:
    with api.client("runner") as client:
        for path in ("/v1/runs", "/v1/plans"):
            answer = client.post(path, json={"spec": SPEC.replace(TRAIN, "/etc")})
            assert (answer.status_code, answer.json()["code"]) == (422, "DataNotAllowedError")
        assert client.get("/v1/runs").json()["runs"] == []


def test_a_change_of_a_run_is_judged_but_not_what_it_named_before(api: Api) -> None:
    api.run("one", State.FAILED)
    with api.client("runner") as client:
        details = RunDetails.model_validate_json(client.get("/v1/runs/one").text)
        for act in ("fork", "resume"):
            answer = client.post(f"/v1/runs/one/{act}", json={"overrides": ["data.train=/etc"]})
            assert answer.json()["code"] == "DataNotAllowedError"
    policy = DataPolicy(replace(ApiSettings(), allowed_data=("s3://elsewhere",)))
    policy.check_change(details, Change(overrides=["scale.workers=1"]))
    with pytest.raises(DataNotAllowedError):
        policy.check_change(details, Change(overrides=["data.train=s3://third/x"]))


def test_settings_are_read_from_the_environment() -> None:
    read = ApiSettings.from_environment(
        {
            "RECO_ALLOWED_DATA": "s3://a, s3://b/",
            "RECO_ALLOW_LOCAL": "1",
            "RECO_RATE_LIMIT": "7",
            "RECO_METRICS_OPEN": "0",
        }
    )
    assert (read.allowed_data, read.allow_local, read.per_minute) == (("s3://a", "s3://b/"), True, 7)
    assert read.metrics_open is False
    assert ApiSettings.from_environment({}) == ApiSettings()
    for wrong in ({"RECO_ALLOW_LOCAL": "yes"}, {"RECO_RATE_LIMIT": "-1"}, {"RECO_RATE_LIMIT_ANONYMOUS": "many"}):
        with pytest.raises(UserError):
            ApiSettings.from_environment(wrong)


def test_nothing_hides_behind_many_addresses_that_a_run_named_before(api: Api) -> None:
    api.run("one", State.FAILED)
    with api.client("runner") as client:
        details = RunDetails.model_validate_json(client.get("/v1/runs/one").text)
    policy = DataPolicy(ApiSettings())
    often = TRAIN + "{,}" * 17  # the same address 131,072 times, and it was there before
    with pytest.raises(DataNotAllowedError, match="more than"):
        policy.check_change(details, Change(overrides=[f"data.train=['{often}', /etc]"]))
