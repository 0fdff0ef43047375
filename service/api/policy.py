"""Which data the specs of others may name: below the prefixes the service was given, and nowhere else."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Set

from jobs.shards.sources import expand_braces
from jobs.spec import RunSpec, Sweep
from service.api.errors import DataNotAllowedError
from service.api.settings import ApiSettings
from service.contract.messages import Change, RunDetails, Submission
from service.control.specs import checked, parsed_of

_URL_OPTIONS = ("data.train", "data.index", "data.probe.train", "data.probe.valid", "data.probe.test")
_MOST = 100_000  # a few braces multiply to more names than anybody can look through
_TOLD = 10


class DataPolicy:
    """Judges the addresses in specs before anything is read from them.

    Whoever may submit makes this service, and jobs with its rights, read and write what a spec names: without a rule
    that is every file of every host.

    Args:
        settings: What is allowed.
    """

    def __init__(self, settings: ApiSettings) -> None:
        self._allowed, self._local = settings.allowed_data, settings.allow_local

    def check(self, submission: Submission) -> None:
        """Refuse a submission that names what it may not.

        Raises:
            SpecError: The spec has mistakes; all of them are told.
            DataNotAllowedError: It names data that is not allowed.
        """
        self._check(checked(submission).parsed)

    def check_change(self, run: RunDetails, change: Change) -> None:
        """The same for a run that goes on, or is forked, with other options; what it names already is not judged again.

        Raises:
            SpecError: The change has mistakes; all of them are told.
            DataNotAllowedError: It names data that is not allowed.
        """
        if change.overrides:
            before = set(itertools.islice(_urls(parsed_of(run)), _MOST))
            self._check(parsed_of(run, change.overrides), before)

    def _check(self, parsed: RunSpec | Sweep, before: Set[str] = frozenset()) -> None:
        # All are counted, those that were there before too: addresses behind too many of them would not be judged.
        urls = list(itertools.islice(_urls(parsed), _MOST + 1))
        if len(urls) > _MOST:
            raise DataNotAllowedError(
                f"the spec names more than {_MOST:,} shards.", hint="Name the folder that they lie in."
            )
        new = (url for url in urls if url not in before)
        refused = [f"{url}: {why}" for url in new if (why := self._refusal(url)) is not None][:_TOLD]
        refused += [f"{folder}: {why}" for folder in _caches(parsed) if (why := _no_cache(folder)) is not None]
        if refused:
            allowed = [*self._allowed, *(["any folder of this machine"] if self._local else [])]
            raise DataNotAllowedError(
                f"the spec names what it may not: {'; '.join(refused)}.",
                hint=f"Allowed is what lies below {', '.join(allowed)}.",
            )

    def _refusal(self, url: str) -> str | None:
        scheme, separator, rest = url.partition("://")
        place = rest if separator else url
        if any(part in (".", "..") for part in place.split("/")) or "\0" in url or "\\" in url:
            return "it must not have `.` or `..` in it"
        if separator and scheme != "s3":
            return f"{scheme}:// is not read"
        if separator and set(place.partition("/")[0]) & set("@:"):
            return "keys and passwords do not belong into an address"
        if any(_below(url, prefix) for prefix in self._allowed) or (self._local and not separator):
            return None
        return "it lies elsewhere"


def _below(url: str, prefix: str) -> bool:
    if prefix.endswith("://"):
        return url.startswith(prefix)
    root = prefix.rstrip("/")
    return url == root or url.startswith(f"{root}/")


def _no_cache(folder: str) -> str | None:
    if "://" in folder or not folder.startswith("/") or ".." in folder.split("/"):
        return "the folder of a cache is an absolute path of the hosts, without `..`"
    return None


def _urls(parsed: RunSpec | Sweep) -> Iterator[str]:
    """Every address that a job may read or write for a spec, with braces expanded: they may hide a `..`."""
    if isinstance(parsed, Sweep):
        yield from _urls(parsed.base)
        for path in _URL_OPTIONS:
            if path in parsed.space:
                yield from _expanded(parsed.space[path].values)
        return
    data = parsed.data
    yield from _expanded([data.train, data.index])
    if data.probe is not None:
        yield from _expanded([data.probe.train, data.probe.valid, data.probe.test])


def _expanded(given: object) -> Iterator[str]:
    if isinstance(given, str):
        yield from expand_braces(given)
    elif isinstance(given, list | tuple):
        for each in given:
            yield from _expanded(each)


def _caches(parsed: RunSpec | Sweep) -> list[str]:
    scales = [parsed.base.scale, parsed.spec.scale] if isinstance(parsed, Sweep) else [parsed.scale]
    return [scale.cache_folder for scale in scales if scale is not None and scale.cache_folder is not None]
