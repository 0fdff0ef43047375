"""What a user's own mistakes with S3 come out as: one line that says what to do."""

from __future__ import annotations

import pytest

from jobs.errors import UserError
from jobs.storage import (
    AccessDeniedError,
    BucketError,
    CredentialsError,
    StorageError,
    UnreachableError,
    open_storage,
)
from jobs.storage.retry import Patience
from jobs.storage.s3 import S3Storage
from tests.s3 import S3Server, free_port


def one_line(error: StorageError, *parts: str) -> None:
    text = str(error)
    assert "\n" not in text
    assert error.hint
    for part in parts:
        assert part in text


def test_a_missing_bucket_is_named_by_every_call(rclone_s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    rclone_s3.use(monkeypatch)
    storage = open_storage("s3://no-such-bucket/data")
    for call in (storage.list, lambda: storage.stat("x"), lambda: storage.write("x", b""), lambda: storage.read("x")):
        with pytest.raises(BucketError) as caught:
            call()
        one_line(caught.value, "no-such-bucket", rclone_s3.endpoint)
        assert isinstance(caught.value, UserError)


def test_a_wrong_secret_is_said(rclone_s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    rclone_s3.use(monkeypatch)
    bucket = rclone_s3.new_bucket()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(CredentialsError) as caught:
        open_storage(f"s3://{bucket}").list()
    one_line(caught.value, "SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY")
    assert "wrong" not in str(caught.value)
    with pytest.raises(AccessDeniedError):  # a HEAD's answer has no body to say more
        open_storage(f"s3://{bucket}").stat("x")


def test_no_credentials_are_said(rclone_s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    rclone_s3.use(monkeypatch)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(CredentialsError) as caught:
        open_storage("s3://bucket").list()
    one_line(caught.value, "AWS_PROFILE")


def test_an_unknown_profile_is_said(rclone_s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    rclone_s3.use(monkeypatch)
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(CredentialsError, match="nobody"):
        open_storage("s3://bucket").list()


def test_an_endpoint_that_is_down_is_named(rclone_s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    rclone_s3.use(monkeypatch)
    address = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    fast = Patience(0.05, base=0.001)
    storage = S3Storage("bucket", reading=fast, asking=fast)
    for call in (storage.list, lambda: storage.write("x", b""), lambda: storage.read_range("x", 0, 5)):
        with pytest.raises(UnreachableError) as caught:
            call()
        one_line(caught.value, address, "AWS_ENDPOINT_URL")


def test_an_endpoint_that_is_no_address_is_said(rclone_s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    rclone_s3.use(monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost:9000")
    with pytest.raises(StorageError) as caught:
        open_storage("s3://bucket").list()
    one_line(caught.value, "localhost:9000")


def test_an_impossible_bucket_name_is_said(rclone_s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    rclone_s3.use(monkeypatch)
    with pytest.raises(BucketError, match="x y"):
        open_storage("s3://x y/z").list()
