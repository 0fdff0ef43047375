"""Registered encoders, read without torch: listed, described, and fetched as plain files."""

from __future__ import annotations

import difflib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.tracking.client import client, explained, shown
from jobs.tracking.errors import DamagedEncoderError, UnknownModelError
from jobs.tracking.evaluations import Evaluation, from_tags
from jobs.tracking.files import CARD, CONFIG, FILES, PREPROCESSING, check_files, read_json

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

FILES_FOLDER = "extra_files"
"""Where MLflow keeps the files that come with a model."""

KIND_TAG = "reco.kind"
RUN_ID_TAG = "reco.run_id"
METRICS_TAG = "reco.metrics"
DATASET_TAG = "reco.dataset_hash"
SPEC_TAG = "reco.spec_hash"
CODE_TAG = "reco.code"
LINEAGE_TAG = "reco.lineage"
CHAMPION = "champion"
CANDIDATE = "candidate"

_REFERENCE = re.compile(r"(?:models:/)?(?P<name>[^/@'\\]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[0-9]+))?")


@dataclass(frozen=True)
class EncoderVersion:
    """One version of a registered encoder.

    Attributes:
        name: Registered model.
        version: Its number.
        aliases: Aliases that point to it.
        created: When it was registered (UTC).
        run_id: Run id of this project that trained it.
        mlflow_run_id: Run id of MLflow.
        metrics: Results it was registered with.
        dataset_hash: Hash of the index of its training shards.
        spec_hash: Hash of its spec.
        code: Code that trained it.
        lineage: What it comes from besides its data: a sweep's trial, another run, how many attempts it took.
        evaluations: What it was found to be worth, on which pictures; oldest first.
        url: Its page in MLflow.
    """

    name: str
    version: int
    aliases: tuple[str, ...]
    created: datetime
    run_id: str
    mlflow_run_id: str
    metrics: dict[str, float]
    dataset_hash: str
    spec_hash: str
    code: str
    lineage: dict[str, str]
    evaluations: tuple[Evaluation, ...]
    url: str

    @property
    def reference(self) -> str:
        """`name/version`, which names this version for good."""
        return f"{self.name}/{self.version}"

    @property
    def knn(self) -> float | None:
        """k-NN accuracy: the metric `knn`, else the first whose last part starts so; None where not measured."""
        if "knn" in self.metrics:
            return self.metrics["knn"]
        return next((value for name, value in self.metrics.items() if name.split("/")[-1].startswith("knn")), None)


@dataclass(frozen=True)
class EncoderDetails:
    """One version with what its small files say.

    Attributes:
        version: The version.
        config: What rebuilds the encoder: name, stem, width, feature_dim, sha256 of the weights.
        preprocessing: What a picture goes through before it.
        card: Its card, in Markdown.
        files: Sizes in bytes by path, the weights and the exported model included.
    """

    version: EncoderVersion
    config: dict[str, object]
    preprocessing: dict[str, object]
    card: str
    files: dict[str, int]


def list_models(uri: str) -> list[EncoderVersion]:
    """Return every version of every encoder this project registered, by name, newest first.

    Raises:
        TrackingError: The server did not answer or refused.
    """
    with explained("list the models", uri):
        versions = list(_search(uri, f"tags.`{KIND_TAG}` = 'encoder'"))
    return sorted(versions, key=lambda each: (each.name, -each.version))


def find_model(reference: str, uri: str) -> EncoderVersion:
    """Return the version that `name`, `name@alias` or `name/version` means.

    A bare name means its champion where there is one, else its newest version.

    Raises:
        UnknownModelError: There is none; the message names what there is.
        TrackingError: The server did not answer or refused.
    """
    parts = _REFERENCE.fullmatch(reference.strip())
    if parts is None:
        raise UnknownModelError(
            f"{reference!r} names no model.", hint="Write `name`, `name@alias`, `name/3`, or a folder with an encoder."
        )
    name, alias, number = parts["name"], parts["alias"], parts["version"]
    with explained(f"look for {name}", uri):
        versions = list(_search(uri, f"name = '{name}' and tags.`{KIND_TAG}` = 'encoder'"))
    versions.sort(key=lambda each: -each.version)
    if not versions:
        known = _known(name, list_models(uri))
        raise UnknownModelError(f"no encoder {name!r} is registered at {shown(uri)}.", hint=known)
    if alias:
        chosen = [each for each in versions if alias in each.aliases]
        there = sorted({each for version in versions for each in version.aliases})
        missing = f"the encoder {name!r} has no alias {alias!r}."
    elif number:
        chosen = [each for each in versions if each.version == int(number)]
        there = [str(each.version) for each in reversed(versions)]
        missing = f"the encoder {name!r} has no version {number}."
    else:
        chosen = [each for each in versions if CHAMPION in each.aliases] or versions
        there, missing = [], ""
    if not chosen:
        raise UnknownModelError(missing, hint=f"It has: {', '.join(there) or 'none'}.")
    return chosen[0]


def show_model(reference: str, uri: str) -> EncoderDetails:
    """Return one version with its card, its preprocessing and its files; the weights are not downloaded.

    Raises:
        UnknownModelError: No such version.
        DamagedEncoderError: One of its files is missing or unreadable.
        TrackingError: The server did not answer or refused.
    """
    version = find_model(reference, uri)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _download(version, uri, (CONFIG, PREPROCESSING, CARD), folder)
        config, preprocessing = read_json(folder / CONFIG), read_json(folder / PREPROCESSING)
        card = (folder / CARD).read_text(encoding="utf-8")
    with explained(f"list the files of {version.reference}", uri):
        files = dict(_sizes(_location(version, uri), uri))
    return EncoderDetails(version, config, preprocessing, card, files)


def fetch_encoder(reference: str, uri: str, destination: Path) -> Path:
    """Put the files of an encoder into a folder: weights, config, preprocessing, spec and card. Nothing is unpickled.

    Args:
        reference: `name`, `name@alias`, `name/version`, or a local folder with these files, which is used where it is.
        uri: Address of the tracking server; not asked for a local folder.
        destination: Folder for the files. One that holds this very encoder already is kept.

    Returns:
        The folder with the files, checked against their SHA-256.

    Raises:
        UnknownModelError: There is no such version or folder.
        DamagedEncoderError: The weights are not those that were registered, or files are missing.
        TrackingError: The server did not answer or refused.
    """
    local = Path(reference).expanduser()
    if local.is_dir() and (local / CONFIG).is_file():
        check_files(local)
        return local
    if reference.startswith((".", "~", "/")) or local.is_dir():
        raise UnknownModelError(
            f"{reference} holds no encoder ({CONFIG} is missing).", hint="Name the folder an encoder was fetched into."
        )
    version = find_model(reference, uri)
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=f".{destination.name}-") as temporary:
        folder = Path(temporary) / "encoder"
        _download(version, uri, (CONFIG,), folder)
        if _holds(destination, folder / CONFIG):
            return destination
        _download_all(version, uri, folder)
        check_files(folder)
        # Renamed when whole: no reader ever finds half an encoder under the final name.
        if destination.exists():
            if any(destination.iterdir()) and not (destination / CONFIG).is_file():
                raise UnknownModelError(
                    f"{destination} holds other files than an encoder.", hint="Name an empty folder as destination."
                )
            shutil.rmtree(destination)
        folder.replace(destination)
    return destination


def version_of_run(name: str, mlflow_run_id: str, uri: str) -> EncoderVersion | None:
    """Return the version of `name` that an MLflow run has registered already, or None."""
    with explained(f"look for versions of {name}", uri):
        return next(_search(uri, f"name = '{name}' and run_id = '{mlflow_run_id}'"), None)


def _search(uri: str, filter_string: str) -> Iterator[EncoderVersion]:
    api = client(uri)
    aliases: dict[str, dict[str, list[str]]] = {}
    token = None
    while True:
        page = api.search_model_versions(filter_string, max_results=1000, page_token=token)
        for found in page:
            if found.name not in aliases:
                # A search returns versions without their aliases; the registered model knows them all.
                aliases[found.name] = {}
                for alias, number in api.get_registered_model(found.name).aliases.items():
                    aliases[found.name].setdefault(str(number), []).append(str(alias))
            yield _version(found, aliases[found.name].get(str(found.version), []), uri)
        token = page.token
        if not token:
            return


def _version(found: ModelVersion, aliases: list[str], uri: str) -> EncoderVersion:
    tags = dict(found.tags)
    page = f"{shown(uri).rstrip('/')}/#/models/{found.name}/versions/{found.version}"
    return EncoderVersion(
        name=str(found.name),
        version=int(found.version),
        aliases=tuple(sorted(aliases)),
        created=datetime.fromtimestamp(found.creation_timestamp / 1000, UTC),
        run_id=str(tags.get(RUN_ID_TAG, "")),
        mlflow_run_id=str(found.run_id or ""),
        metrics={str(name): float(value) for name, value in json.loads(tags.get(METRICS_TAG, "{}")).items()},
        dataset_hash=str(tags.get(DATASET_TAG, "")),
        spec_hash=str(tags.get(SPEC_TAG, "")),
        code=str(tags.get(CODE_TAG, "")),
        lineage=json.loads(tags.get(LINEAGE_TAG, "{}")),
        evaluations=from_tags(tags),
        url=page if uri.startswith("http") else shown(uri),
    )


def _known(name: str, versions: list[EncoderVersion]) -> str:
    names = sorted({each.name for each in versions})
    if not names:
        return "None is registered yet: `reco pretrain` registers one at its end."
    near = difflib.get_close_matches(name, names, n=1)
    return f"Did you mean {near[0]!r}?" if near else f"There is: {', '.join(names[:20])}."


def _location(version: EncoderVersion, uri: str) -> str:
    return str(client(uri).get_model_version_download_uri(version.name, str(version.version))).rstrip("/")


def _download(version: EncoderVersion, uri: str, names: tuple[str, ...], folder: Path) -> None:
    from mlflow.artifacts import download_artifacts

    folder.mkdir(parents=True, exist_ok=True)
    with explained(f"download {version.reference}", uri):
        location = _location(version, uri)
        for name in names:
            download_artifacts(f"{location}/{FILES_FOLDER}/{name}", dst_path=str(folder), tracking_uri=uri)


def _download_all(version: EncoderVersion, uri: str, folder: Path) -> None:
    """All files of an encoder in one go, its pictures included."""
    from mlflow.artifacts import download_artifacts

    with explained(f"download {version.reference}", uri), tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        whole = f"{_location(version, uri)}/{FILES_FOLDER}"
        for path in Path(download_artifacts(whole, dst_path=temporary, tracking_uri=uri)).iterdir():
            path.replace(folder / path.name)


def _sizes(location: str, uri: str) -> Iterator[tuple[str, int]]:
    from mlflow.artifacts import list_artifacts

    for each in list_artifacts(location, tracking_uri=uri):
        if each.is_dir:
            for path, size in _sizes(f"{location}/{Path(each.path).name}", uri):
                yield f"{Path(each.path).name}/{path}", size
        else:
            yield Path(each.path).name, int(each.file_size or 0)


def _holds(destination: Path, config: Path) -> bool:
    """Whether `destination` holds whole the encoder that `config` describes."""
    if not (destination / CONFIG).is_file() or read_json(destination / CONFIG) != read_json(config):
        return False
    try:
        check_files(destination)
    except DamagedEncoderError:
        return False
    return all((destination / name).is_file() for name in FILES)
