"""Positions of pictures: keys, labels and bytes agree with what is stored, wherever a span begins and ends."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from jobs.embedding.sources import ShardSource, Unusable, find, open_source
from jobs.errors import UserError
from jobs.shards.dataset import open_dataset
from tests.pictures import damage, write_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("train") / "shards", samples=100)


@pytest.mark.parametrize(("start", "stop"), [(0, 100), (0, 1), (38, 42), (79, 100), (40, 80), (100, 100)])
def test_a_span_of_shards_is_what_the_data_set_says(shards: Path, start: int, stop: int) -> None:
    source, dataset = open_source([str(shards)]), open_dataset(str(shards))
    assert source.keys(start, stop) == [dataset.key(sample) for sample in range(start, stop)]
    assert list(source.read(start, stop)) == dataset.read(range(start, stop))
    assert source.labels(start, stop).tolist() == [sample % 4 for sample in range(start, stop)]


def test_a_stretch_is_cut_where_it_grows_too_large(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.embedding.sources._STRETCH", 4000)
    source, dataset = open_source([str(shards)]), open_dataset(str(shards))
    assert list(source.read(0, 100)) == dataset.read(range(100))


def test_a_source_says_the_same_in_another_process(shards: Path) -> None:
    source = pickle.loads(pickle.dumps(open_source([f"{shards}/part-{{000000..000001}}.tar"])))
    assert len(source) == 80
    assert source.keys(79, 80) == ["part-000001.tar/000079"]


def test_several_places_are_one_source(shards: Path) -> None:
    names = [str(shards / f"part-{number:06d}.tar") for number in (2, 0)]
    source = open_source(names)
    assert isinstance(source, ShardSource)
    assert source.places == names
    assert source.keys(19, 21) == ["part-000002.tar/000099", "part-000000.tar/000000"]


def test_bytes_that_are_not_those_indexed_are_unusable_and_no_others(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "shards", samples=40)
    damage(shards, 0, range(3, 4))
    read = list(open_source([str(shards)]).read(0, 40))
    assert [number for number, data in enumerate(read) if isinstance(data, Unusable)] == [3]


def test_find_gives_positions_and_names_what_is_missing(shards: Path) -> None:
    source = open_source([str(shards)])
    assert find(source, ["part-000002.tar/000099", "part-000000.tar/000001"]) == [99, 1]
    with pytest.raises(UserError, match="has no picture nothing"):
        find(source, ["part-000002.tar/000099", "nothing"])


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no pictures"):
        open_source([str(tmp_path)])
    with pytest.raises(UserError, match="no folder"):
        open_source([str(tmp_path / "missing")])
