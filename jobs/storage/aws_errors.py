"""What botocore raises, sorted into what may be tried again and what a person has to mend."""

from __future__ import annotations

import botocore.exceptions as aws
from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from jobs.storage.errors import (
    AccessDeniedError,
    BucketError,
    CredentialsError,
    NotFoundError,
    ObjectChangedError,
    StorageError,
    UnreachableError,
)

_THROTTLED = {
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "RequestTimeout",
    "RequestLimitExceeded",
    "TooManyRequests",
}
_UNKNOWN_KEYS = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"}
_DENIED = {"AccessDenied", "Forbidden", "403", "AllAccessDisabled", "AccountProblem"}
_MISSING = {"NoSuchKey", "NotFound", "404"}
_ELSEWHERE = {"PermanentRedirect", "301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
_NO_CREDENTIALS = (
    aws.NoCredentialsError,
    aws.PartialCredentialsError,
    aws.CredentialRetrievalError,
    aws.ProfileNotFound,
    aws.TokenRetrievalError,
    aws.NoAuthTokenError,
    aws.SSOError,
)
_NO_ANSWER = (
    aws.ConnectionError,
    aws.HTTPClientError,
    aws.ResponseStreamingError,
    aws.IncompleteReadError,
    aws.ChecksumError,
    HTTPError,
    OSError,
)


def code_of(error: ClientError) -> str:
    """The S3 error code, or the HTTP status where the answer had no body."""
    return str(error.response.get("Error", {}).get("Code", "unknown"))


def status_of(error: ClientError) -> int:
    """The HTTP status, 0 where there is none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def is_transient(error: BaseException) -> bool:
    """Whether the same request may well succeed a moment later."""
    if isinstance(error, ClientError):
        status = status_of(error)
        # 501 says that the server never will.
        return (status >= 500 and status != 501) or status == 429 or code_of(error) in _THROTTLED
    # The last two come from a local file that was to be uploaded.
    return isinstance(error, _NO_ANSWER) and not isinstance(error, FileNotFoundError | PermissionError)


def translate(error: Exception, *, where: str, bucket: str, endpoint: str) -> StorageError:
    """The typed error for what botocore raised.

    Args:
        error: Any error of botocore's or urllib3's, or an `OSError`.
        where: The URL that was asked for.
        bucket: Its bucket.
        endpoint: The address that was asked, for the message.
    """
    if isinstance(error, ClientError):
        return _translate_answer(error, where, bucket, endpoint)
    if isinstance(error, _NO_CREDENTIALS):
        return CredentialsError(
            f"No usable credentials for {where} ({error}).",
            hint="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE.",
        )
    if isinstance(error, aws.ParamValidationError):
        return BucketError(f"{bucket!r} cannot be the name of a bucket.", hint="Write s3://bucket/prefix.")
    if isinstance(error, _NO_ANSWER):
        return UnreachableError(
            f"No answer from {endpoint} for {where} ({type(error).__name__}).",
            hint="Is the address right (AWS_ENDPOINT_URL), and the server up?",
        )
    kind = "set-up" if isinstance(error, BotoCoreError | ValueError) else "failure"
    return StorageError(f"S3 {kind} for {where}: {error}.", hint="Check AWS_ENDPOINT_URL, AWS_REGION and AWS_PROFILE.")


def _translate_answer(error: ClientError, where: str, bucket: str, endpoint: str) -> StorageError:
    code, status = code_of(error), status_of(error)
    if code in ("NoSuchBucket", "InvalidBucketName"):
        return BucketError(
            f"There is no bucket {bucket} at {endpoint}.", hint="Check its name, AWS_ENDPOINT_URL and AWS_PROFILE."
        )
    if code in _MISSING:
        return NotFoundError(f"There is no {where}.", hint="Check the path.")
    if code in _UNKNOWN_KEYS:
        return CredentialsError(
            f"{endpoint} does not accept the credentials for {where} ({code}).",
            hint="Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or renew the session of AWS_PROFILE.",
        )
    if code in _DENIED or status == 403:
        return AccessDeniedError(f"Access to {where} is denied.", hint="Check the credentials and the bucket's policy.")
    if code in _ELSEWHERE:
        return BucketError(
            f"The bucket {bucket} lives in another region than asked.", hint="Set AWS_REGION to its region."
        )
    if status == 412:
        return ObjectChangedError(f"{where} was changed since it was listed.", hint="Use its new version.")
    if status == 416:
        return StorageError(
            f"{where} is shorter than the range asked for.", hint="It was cut or replaced: look at its size."
        )
    if is_transient(error):
        return UnreachableError(f"{endpoint} keeps answering {code} for {where}.", hint="Try again later.")
    message = error.response.get("Error", {}).get("Message") or "no message"
    return StorageError(f"{endpoint} answered {code} for {where}: {message}.")
