"""Asks an address whether an MLflow server is up there, without importing MLflow."""

from __future__ import annotations

import base64
import http.client
import os
import ssl
import urllib.error
import urllib.parse
import urllib.request


def trouble(uri: str, *, timeout: float) -> str | None:
    """Ask the server at `uri` for its health.

    Args:
        uri: http(s) address, with or without user and password.
        timeout: Seconds for the connection, and for the answer.

    Returns:
        None where it is healthy, else what is wrong in a few words.
    """
    parts = urllib.parse.urlsplit(uri)
    try:
        host = parts.hostname or ""
        address = f"[{host}]" if ":" in host else host
        address += f":{parts.port}" if parts.port else ""
        request = urllib.request.Request(f"{parts.scheme}://{address}{parts.path.rstrip('/')}/health")
        if parts.username is not None:
            pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
            request.add_header("Authorization", f"Basic {base64.b64encode(pair.encode()).decode()}")
        handlers: list[urllib.request.BaseHandler] = [urllib.request.HTTPSHandler(context=_tls())]
        if host in ("127.0.0.1", "localhost", "::1"):
            handlers.append(urllib.request.ProxyHandler({}))
        with urllib.request.build_opener(*handlers).open(request, timeout=timeout) as answer:
            answer.read(1024)
        return None
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (401, 403):
            return None  # Behind a login: it is up, and MLflow's client brings the credentials.
        return f"it answers /health with HTTP {error.code}"
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            return _no_answer(timeout)
        return str(getattr(error.reason, "strerror", None) or error.reason)
    except TimeoutError:
        return _no_answer(timeout)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return str(error) or type(error).__name__


def _no_answer(timeout: float) -> str:
    return f"no answer within {timeout:g} s"


def _tls() -> ssl.SSLContext:
    """Return the TLS settings MLflow's own client would use."""
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    authority = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or os.environ.get("REQUESTS_CA_BUNDLE")
    return ssl.create_default_context(cafile=authority)
