"""Pictures from web servers, for lists of URLs."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request

from jobs.shards.decode import PictureError
from jobs.storage.retry import Patience, Tries

SCHEMES = ("http://", "https://")
_TIMEOUT_S = 30.0
_MOST = 512 << 20
_AGENT = "reco-data-pack"
_AGAIN = (408, 425, 429)


def fetch(url: str, patience: Patience = Patience(20.0, base=0.5)) -> bytes:  # noqa: B008 - frozen
    """Read one URL whole.

    Args:
        url: With http or https.
        patience: For servers that do not answer, or say to come back later.

    Raises:
        PictureError: It cannot be had. On the web that is an everyday matter, so it counts against the picture, not
            against the storage.
    """
    tries = Tries(patience)
    while True:
        try:
            return _request(url)
        except urllib.error.HTTPError as error:
            reason, permanent = f"the server answered {error.code}", error.code < 500 and error.code not in _AGAIN
        except http.client.InvalidURL as error:
            reason, permanent = f"it is no URL ({error})", True
        except (OSError, http.client.HTTPException) as error:
            said = error.reason if isinstance(error, urllib.error.URLError) else error
            reason, permanent = f"it cannot be fetched ({said})", False
        except ValueError as error:
            reason, permanent = f"it is no URL ({error})", True
        if permanent or not tries.wait():
            raise PictureError(reason)


def _request(url: str) -> bytes:
    request = urllib.request.Request(url, headers={"User-Agent": _AGENT})
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
        data = bytes(answer.read(_MOST + 1))
        promised = answer.headers.get("Content-Length")
    if promised is not None and promised.isdigit() and len(data) < min(int(promised), _MOST + 1):
        raise ConnectionResetError(f"{len(data)} of {promised} bytes came")
    if len(data) > _MOST:
        raise PictureError(f"it has more than {_MOST:,} bytes")
    return data
