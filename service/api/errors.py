"""What the API itself refuses, before the service is asked."""

from __future__ import annotations

from jobs.errors import RecoError, UserError


class UnauthenticatedError(UserError):
    """There is no token, or none that is good (any more)."""


class ForbiddenError(UserError):
    """The token is good, and its holder may not do that."""


class CrossSiteError(ForbiddenError):
    """Another site's page made a browser send the request, with the cookie of this one."""


class DataNotAllowedError(UserError):
    """A spec names data that it may not."""


class TooLargeError(UserError):
    """The body of a request is larger than any spec."""


class SlowRequestError(UserError):
    """The body of a request did not arrive in time."""


class TooManyRequestsError(RecoError):
    """A caller asks more often than it may.

    Attributes:
        wait_s: When it may ask again, in seconds.
    """

    def __init__(self, message: str, *, wait_s: float) -> None:
        super().__init__(message, hint=f"Ask again in {wait_s:.0f} s, and less often.")
        self.wait_s = wait_s


class BusyError(RecoError):
    """The service cannot take that on now, or did not finish it in time."""


class MismatchError(UserError):
    """Two parts of a request contradict each other."""


class UnknownTokenError(UserError):
    """There is no such token."""


class UnknownParameterError(UserError):
    """A query has a parameter that its address has not."""
