"""Packing: every picture with its class, byte for byte, the same each time, and all or nothing."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from jobs.errors import UserError
from jobs.shards.dataset import open_dataset
from jobs.shards.pack import pack
from jobs.shards.split import divide, parse_split
from jobs.storage import open_storage
from tests.jobs.shards.made import picture
from tests.s3 import S3Server


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve pictures of two classes in three formats, and things that are no pictures."""
    folder = tmp_path / "photos"
    for number in range(12):
        place = folder / ("cat", "dog")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        kind, suffix = [("JPEG", "jpg"), ("PNG", "PNG"), ("WEBP", "webp")][number % 3]
        (place / f"{number}.{suffix}").write_bytes(picture(number, kind=kind, height=20, width=20))
    (folder / "cat" / "notes.txt").write_text("not a picture")
    (folder / ".hidden.jpg").write_bytes(b"x")
    return folder


def samples_of(folder: Path) -> list[dict[str, bytes]]:
    paths = sorted(str(path) for path in folder.glob("*.tar"))
    return list(webdataset.WebDataset(paths, shardshuffle=False))


def stop_at(place: int) -> Callable[[str, int, int], None]:
    """A report that presses Ctrl-C once so many pictures are packed."""

    def stop(what: str, done: int, total: int) -> None:
        if what == "packing" and done == place:
            raise KeyboardInterrupt

    return stop


def picture_in(sample: dict[str, bytes]) -> bytes:
    (data,) = [sample[suffix] for suffix in ("jpg", "png", "webp") if suffix in sample]
    return data


def test_a_folder_becomes_shards_that_webdataset_reads_too(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "shards"
    packing = pack(str(photos), str(out), shard_bytes=10**6, shard_samples=5)
    assert packing.classes == ["cat", "dog"]
    assert packing.left_out == []
    part = packing.parts[""]
    assert (part.samples, part.shards, part.url) == (12, 3, str(out))
    assert json.loads((out / "classes.json").read_text()) == ["cat", "dog"]
    expected = {
        (path.read_bytes(), label)
        for label, name in enumerate(("cat", "dog"))
        for path in (photos / name).glob("*.*[gGp]")
    }
    assert len(expected) == 12
    found = {(picture_in(sample), int(sample["cls"])) for sample in samples_of(out)}
    assert found == expected
    dataset = open_dataset(str(out))
    assert dataset.hash == part.hash
    assert dataset.counts.tolist() == [5, 5, 2]
    assert dataset.labels is not None
    assert set(zip(dataset.read(range(12)), dataset.labels.tolist(), strict=True)) == expected
    assert [path.name for path in out.parent.iterdir()] == ["shards"]


def test_packing_is_shuffled_by_the_seed_and_otherwise_repeatable(photos: Path, tmp_path: Path) -> None:
    hashes = [
        pack(str(photos), str(tmp_path / str(n)), shard_bytes=10**6, seed=seed).parts[""].hash
        for n, seed in enumerate((1, 1, 2))
    ]
    assert hashes[0] == hashes[1] != hashes[2]
    tars = [(tmp_path / str(n) / "shard-000000.tar").read_bytes() for n in range(2)]
    assert tars[0] == tars[1]


def test_shards_stay_below_their_size(photos: Path, tmp_path: Path) -> None:
    pack(str(photos), str(tmp_path / "out"), shard_bytes=12_000)
    sizes = [path.stat().st_size for path in (tmp_path / "out").glob("*.tar")]
    assert len(sizes) > 1
    # tarfile fills archives up to 10,240 bytes; what counts is where the content ends.
    assert max(sizes) <= 20_480


def test_pictures_without_folders_have_no_labels(photos: Path, tmp_path: Path) -> None:
    packing = pack(str(photos / "cat"), str(tmp_path / "out"), shard_bytes=10**6)
    assert packing.classes == []
    assert open_dataset(str(tmp_path / "out")).labels is None
    assert not (tmp_path / "out" / "classes.json").exists()


def test_digits_are_scikit_learns(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    pack("digits", str(tmp_path / "out"), shard_bytes=10**8, shard_samples=600)
    dataset = open_dataset(str(tmp_path / "out"))
    assert dataset.counts.tolist() == [600, 600, 597]
    assert dataset.num_classes == 10
    bunch = load_digits()
    expected = Counter(
        (np.rint(image * 255 / 16).astype(np.uint8).tobytes(), int(label))
        for image, label in zip(bunch.images, bunch.target, strict=True)
    )
    assert dataset.labels is not None
    found = Counter(
        (np.asarray(Image.open(io.BytesIO(data))).tobytes(), label)
        for data, label in zip(dataset.read(range(1797)), dataset.labels.tolist(), strict=True)
    )
    assert found == expected


def test_a_split_is_disjoint_complete_and_stratified(tmp_path: Path) -> None:
    fractions = {"train": 0.8, "valid": 0.1, "test": 0.1}
    packing = pack("digits", str(tmp_path / "out"), shard_bytes=10**8, fractions=fractions, seed=4)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["test", "train", "valid"]
    seen: Counter[bytes] = Counter()
    for name, fraction in fractions.items():
        dataset = open_dataset(str(tmp_path / "out" / name))
        assert packing.parts[name].samples == len(dataset)
        assert dataset.labels is not None
        for label, count in enumerate(np.bincount(dataset.labels, minlength=10)):
            total = 174 + 10  # classes have 174 to 183 pictures
            assert abs(count - fraction * total) < 0.1 * fraction * total + 2, (name, label)
        seen.update(dataset.read(range(len(dataset))))
        assert (tmp_path / "out" / name / f"{name}-000000.tar").exists()
    whole = tmp_path / "whole"
    pack("digits", str(whole), shard_bytes=10**8)
    assert seen == Counter(open_dataset(str(whole)).read(range(1797)))


def test_dealing_out_is_the_same_for_the_same_seed() -> None:
    labels = np.array([0] * 50 + [1] * 30 + [-1] * 20)
    chosen = [n for n in range(100) if n != 7]
    parts = divide(labels, chosen, {"a": 0.5, "b": 0.5}, seed=1)
    assert parts == divide(labels, chosen, {"a": 0.5, "b": 0.5}, seed=1)
    assert parts != divide(labels, chosen, {"a": 0.5, "b": 0.5}, seed=2)
    assert sorted(parts["a"] + parts["b"]) == chosen
    assert [int((labels[parts["a"]] == label).sum()) for label in (1, -1)] == [15, 10]
    with pytest.raises(UserError, match=r"part b .* would be empty"):
        divide(labels, [1, 2], {"a": 0.9, "b": 0.1}, seed=1)


@pytest.mark.parametrize(
    "text", ["", "train", "train=0.5", "a=0.5,a=0.5", "a=2,b=-1", "a=x", "A=1", "../x=1", "index=1", "a=0.6,b=0.6"]
)
def test_an_impossible_split_is_refused(text: str) -> None:
    with pytest.raises(UserError):
        parse_split(text)
    assert parse_split("train=0.75, valid=0.25") == {"train": 0.75, "valid": 0.25}


def test_unreadable_pictures_are_all_named_and_can_then_be_left_out_without_packing_again(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "cat" / "bad.jpg").write_bytes(picture(1, height=64, width=64)[:900])
    (photos / "dog" / "empty.png").touch()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"2 of 14 pictures cannot be read \(cat/bad\.jpg: .*dog/empty\.png") as caught:
        pack(str(photos), str(tmp_path / "out"), shard_bytes=10**6)
    assert "--skip-unreadable" in (caught.value.hint or "")
    assert not (tmp_path / "out").exists()

    def refuse(*_: object) -> bytes:
        raise AssertionError("a picture was read again")

    monkeypatch.setattr("jobs.shards.pictures.Files.read", refuse)
    packing = pack(str(photos), str(tmp_path / "out"), shard_bytes=10**6, skip_unreadable=True)
    assert packing.parts[""].samples == 12
    assert [item.name for item in packing.left_out] == ["cat/bad.jpg", "dog/empty.png"]
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "out"])


def test_nothing_to_pack_is_said(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source, said in (("empty", "no pictures"), ("nowhere", "no folder")):
        with pytest.raises(UserError, match=said):
            pack(str(tmp_path / source), str(tmp_path / "out"), shard_bytes=10**6)
    (tmp_path / "empty" / "bad.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match="1 of 1 pictures"):
        pack(str(tmp_path / "empty"), str(tmp_path / "out"), shard_bytes=10**6, skip_unreadable=True)


def test_a_destination_that_is_not_empty_is_replaced_only_when_asked(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack(str(photos), str(out), shard_bytes=10**6, shard_samples=2)
    with pytest.raises(UserError, match="not empty"):
        pack(str(photos), str(out), shard_bytes=10**6)
    pack(str(photos), str(out), shard_bytes=10**6, overwrite=True)
    assert [path.name for path in sorted(out.glob("*.tar"))] == ["shard-000000.tar"]
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"more than shards \(thesis\.txt\)"):
        pack(str(photos), str(out), shard_bytes=10**6, overwrite=True)
    assert (out / "thesis.txt").exists()
    with pytest.raises(UserError, match="is a file"):
        pack(str(photos), str(out / "thesis.txt"), shard_bytes=10**6)


def test_stopping_leaves_the_old_shards_as_they_were_and_no_trace_where_nothing_was_done(
    photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    pack(str(photos), str(out), shard_bytes=10**6)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for at, left in ((1, ["out", "photos"]), (10, [".out.packing", "out", "photos"])):
        with pytest.raises(KeyboardInterrupt):
            pack(str(photos), str(out), shard_bytes=10**6, shard_samples=3, overwrite=True, report=stop_at(at))
        assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
        assert sorted(path.name for path in tmp_path.iterdir()) == left
    assert pack(str(photos), str(out), shard_bytes=10**6, shard_samples=3, overwrite=True).parts[""].shards == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "photos"]


@pytest.mark.parametrize("server", ["rclone_s3", "moto_s3"])
def test_packing_to_s3_uploads_shards_and_an_index_that_fits(
    photos: Path, tmp_path: Path, server: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3: S3Server = request.getfixturevalue(server)
    s3.use(monkeypatch)
    url = f"s3://{s3.new_bucket()}/sets/photos"
    fractions = {"train": 0.5, "test": 0.5}
    local = pack(str(photos), str(tmp_path / "out"), shard_bytes=10**6, fractions=fractions)
    packing = pack(str(photos), url, shard_bytes=10**6, shard_samples=2, fractions=fractions)

    def refuse(*_: object) -> None:
        raise AssertionError("the index was built again")

    monkeypatch.setattr("jobs.shards.indexing.scan_shard", refuse)
    train = open_dataset(f"{url}/train")
    assert train.hash == packing.parts["train"].hash
    expected = open_dataset(str(tmp_path / "out" / "train"))
    assert local.parts["train"].samples == len(train)
    assert train.read(range(len(train))) == expected.read(range(len(train)))
    monkeypatch.undo()
    s3.use(monkeypatch)
    with pytest.raises(UserError, match="not empty"):
        pack(str(photos), url, shard_bytes=10**6)
    pack(str(photos), url, shard_bytes=10**6, overwrite=True)
    assert [item.key for item in open_storage(url).list()] == [
        "classes.json",
        "index/root.json",
        "index/shard-000000.tar.json",
        "shard-000000.tar",
    ]
    assert len(open_dataset(url)) == 12


def test_a_name_with_a_percent_sign_is_a_name(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "100%d"
    pack(str(photos), str(out), shard_bytes=10**6)
    assert (out / "shard-000000.tar").exists()
