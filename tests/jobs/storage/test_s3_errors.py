"""What a user's own mistakes with S3 come out as: one line that says what to do."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

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


@pytest.fixture
def cut_listing(rclone_s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A server whose listings never end; the list holds what each page says of how it goes on, the last for good."""
    tokens: list[str] = []

    class Pages(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            token = tokens.pop(0) if len(tokens) > 1 else tokens[0]
            body = (
                '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><IsTruncated>true</IsTruncated>'
                f'{token}<Contents><Key>a.tar</Key><Size>5</Size><ETag>"x"</ETag></Contents></ListBucketResult>'
            ).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    rclone_s3.use(monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    yield tokens
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    "tokens", [[""], ["<NextContinuationToken>1</NextContinuationToken>"]], ids=["no token", "the same token again"]
)
def test_a_listing_that_is_cut_is_never_taken_for_whole(cut_listing: list[str], tokens: list[str]) -> None:
    cut_listing += tokens
    with pytest.raises(StorageError, match="cut the listing of s3://bucket/data ") as caught:
        open_storage("s3://bucket").list("data")
    one_line(caught.value, "NextContinuationToken")
