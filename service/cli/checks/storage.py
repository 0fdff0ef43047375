"""Checks of the storage: whether S3 answers, and what may be done below a URL."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

from jobs.errors import RecoError
from jobs.storage import AccessDeniedError, Storage, open_storage
from jobs.tracking.client import shown
from service.cli.checks.finding import Finding
from service.cli.checks.reach import refusal


def endpoint() -> list[Finding]:
    """Where S3 is, and whether there are credentials; rights are tried out by `rights` only."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    keys = any(os.environ.get(name) for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE"))
    keys = keys or Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")).expanduser().is_file()
    told = "credentials are set" if keys else "no credentials are set"
    ask = "`reco doctor s3://bucket/prefix` tries the rights out."
    if endpoint:
        reason = _no_connection(endpoint)
        if reason:
            advice = "Start that server, or mend AWS_ENDPOINT_URL."
            return [Finding("✗", "S3", f"{shown(endpoint)} cannot be reached: {reason}", advice)]
        if not keys:
            advice = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
            return [Finding("!", "S3", f"{shown(endpoint)} answers; {told}", advice)]
        return [Finding("✓", "S3", f"{shown(endpoint)} answers; {told}", ask)]
    return [Finding("✓", "S3", f"no AWS_ENDPOINT_URL; {told}", ask if keys else None)]


def rights(url: str) -> list[Finding]:
    """Try out the rights below `url`, with one small object that is deleted again."""
    subject = "S3" if url.startswith("s3://") else "storage"
    findings: list[Finding] = []
    try:
        storage = open_storage(url)
        if subject == "storage" and not Path(storage.url).is_dir():
            return [Finding("✗", subject, f"there is no folder {storage.url}", "Make it, or mend the path.")]
        first = next(iter(storage.list(recursive=False)), None)
        content = "it holds objects" if first else "it is empty"
        findings.append(Finding("✓", subject, f"{shown(url)} can be listed; {content}"))
        if first is not None:
            storage.read_range(first.key, 0, min(first.size, 1), etag=first.etag)
            findings.append(Finding("✓", subject, f"can be read ({first.key})"))
    except RecoError as error:
        return [*findings, Finding("✗", subject, error.message, error.hint)]
    return findings + _writing(storage, subject)


def _no_connection(address: str) -> str | None:
    parts = urlsplit(address)
    try:
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (KeyError, ValueError):
        return "it is no http(s) address"
    return refusal(parts.hostname or "", port)


def _writing(storage: Storage, subject: str) -> list[Finding]:
    key, content = f".reco-doctor-{uuid4().hex}", b"Written by `reco doctor`; may be deleted."
    findings: list[Finding] = []
    try:
        storage.write(key, content)
    except AccessDeniedError:
        advice = "Enough for pictures if data.index is elsewhere; a run's own storage needs the right to write."
        return [Finding("!", subject, "cannot be written to", advice)]
    except RecoError as error:
        return [Finding("✗", subject, f"writing failed: {error.message}", error.hint)]
    try:
        if storage.read(key) != content:
            advice = "Something between here and the storage alters objects: do not train on it."
            findings.append(Finding("✗", subject, "what was written is not what is read", advice))
        elif storage.create(key, content):
            advice = "It ignores If-None-Match, so that a stale attempt is told from the present one by other means."
            findings.append(Finding("!", subject, "can be written to; conditional writes are not honoured", advice))
        else:
            findings.append(Finding("✓", subject, "can be written to; conditional writes are honoured"))
    except RecoError as error:
        findings.append(Finding("✗", subject, f"reading back failed: {error.message}", error.hint))
    try:
        storage.delete(key)
        findings.append(Finding("✓", subject, "can be deleted from"))
    except RecoError as error:
        advice = f"Old checkpoints cannot be removed; delete {key} by hand."
        findings.append(Finding("!", subject, f"deleting failed: {error.message}", advice))
    return findings
