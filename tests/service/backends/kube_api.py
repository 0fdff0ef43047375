"""An API server of Kubernetes that knows KubeRay's objects, over HTTP: what is asked, refused, and lost on the way."""

from __future__ import annotations

import contextlib
import copy
import functools
import http.server
import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import jsonschema
import yaml

Object = dict[str, Any]
Outage = Literal["", "closed", "error", "page", "hang", "lost"]

NAMESPACE = "reco"
FOREGROUND = "foregroundDeletion"
_PATH = re.compile(r"/apis/ray\.io/v1/namespaces/([^/]+)/(rayjobs|rayclusters)(?:/([^/]+))?(/status)?")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_PAGE = 2  # a server may give less than it is asked for
_KINDS = {"rayjobs": "RayJob", "rayclusters": "RayCluster"}
_VERBS = {"POST": "create", "GET": "get", "PATCH": "patch", "DELETE": "delete"}


class RefusedError(Exception):
    """The server refuses a request."""

    def __init__(self, code: int, reason: str, message: str, **details: str) -> None:
        super().__init__(message)
        self.code = code
        self.status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code}
        self.status |= {"reason": reason, "message": message, "details": details}


class KubeApi:
    """One server, with one namespace.

    Attributes:
        token: What it wants of its callers.
        installed: Whether it knows KubeRay's objects.
        refusals: By verb and plural, what it refuses with.
        outage: How it fails everybody: `closed` before a request is done, `lost` after that, `hang` for seconds.
        requests: Verb and path of each request, in order.
    """

    def __init__(self, crds: Path | None = None) -> None:
        self.token = uuid.uuid4().hex
        self.installed = True
        self.refusals: dict[tuple[str, str], RefusedError] = {}
        self.outage: Outage = ""
        self.requests: list[tuple[str, str]] = []
        self._crds = crds
        self._objects: dict[tuple[str, str], Object] = {}
        self._version = 0
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, self))
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        """End it."""
        self._over.set()
        self._server.shutdown()
        self._server.server_close()

    def kubeconfig(self, folder: Path, *, token: str | None = None, address: str | None = None) -> Path:
        """Write how it is reached."""
        path = folder / "kubeconfig"
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "leader"}}],
            "clusters": [{"name": "test", "cluster": {"server": address or self.address}}],
            "users": [{"name": "leader", "user": {"token": token or self.token}}],
        }
        path.write_text(yaml.safe_dump(content))
        return path

    @contextlib.contextmanager
    def failing(self, outage: Outage) -> Iterator[None]:
        """Fail everybody, as long as the context lasts."""
        self.outage = outage
        try:
            yield
        finally:
            self.outage = ""
            self._over.set()
            self._over = threading.Event()

    def listed(self, plural: str) -> list[Object]:
        """Copies of all objects of a kind."""
        with self._lock:
            return [copy.deepcopy(found) for (kind, _), found in self._objects.items() if kind == plural]

    def get(self, plural: str, name: str) -> Object | None:
        """A copy of an object."""
        with self._lock:
            return copy.deepcopy(self._objects.get((plural, name)))

    def create(self, plural: str, given: Object, *, strict: bool = False) -> Object:
        """Store a new object."""
        name = str(given.get("metadata", {}).get("name", ""))
        with self._lock:
            if not _NAME.fullmatch(name) or len(name) > 253:
                raise RefusedError(422, "Invalid", f"{_KINDS[plural]}.ray.io {name!r} is invalid: metadata.name")
            self._check(plural, given, strict=strict)
            if (plural, name) in self._objects:
                raise RefusedError(409, "AlreadyExists", f'{plural}.ray.io "{name}" already exists', name=name)
            new = {**copy.deepcopy(given), "status": {}}  # a status can only be written through its own address
            new["metadata"] |= {"namespace": NAMESPACE, "uid": str(uuid.uuid4()), "creationTimestamp": now()}
            self._objects[plural, name] = new
            return self._touched(new)

    def change(self, plural: str, name: str, change: Callable[[Object], None]) -> None:
        """Change an object that is there; one that is being deleted and has no finalizers left goes."""
        with self._lock:
            if (found := self._objects.get((plural, name))) is None:
                return
            change(found)
            self._touched(found)
            if "deletionTimestamp" in found["metadata"] and not found["metadata"].get("finalizers"):
                del self._objects[plural, name]

    def set_status(self, name: str, **status: object) -> None:
        """Write parts of a RayJob's status, as KubeRay does."""
        self.change("rayjobs", name, lambda found: found.setdefault("status", {}).update(status))
        if (found := self.get("rayjobs", name)) is not None:
            self._check("rayjobs", found, strict=True)

    def delete(self, plural: str, name: str, *, foreground: bool = False) -> None:
        """Delete an object, at once or when its finalizers are gone."""

        def mark(found: Object) -> None:
            found["metadata"].setdefault("deletionTimestamp", now())
            if foreground and FOREGROUND not in (finalizers := found["metadata"].setdefault("finalizers", [])):
                finalizers.append(FOREGROUND)

        self.change(plural, name, mark)

    def answer(self, method: str, url: str, token: str, read: Callable[[], Object]) -> tuple[int, object]:
        """Do a request."""
        parts = urlsplit(url)
        route = _PATH.fullmatch(parts.path)
        verb = "list" if method == "GET" and route is not None and route[3] is None else _VERBS.get(method, "")
        self.requests.append((verb, parts.path))
        if token.lower() != f"bearer {self.token}":
            raise RefusedError(401, "Unauthorized", "Unauthorized")
        if not self.installed or route is None:
            return 404, "404 page not found\n"
        namespace, plural, name, _ = route.groups()
        if (refusal := self.refusals.get((verb, plural))) is not None:
            raise refusal
        if verb == "create":
            if namespace != NAMESPACE:
                raise RefusedError(404, "NotFound", f'namespaces "{namespace}" not found', kind="namespaces")
            strict = parse_qs(parts.query).get("fieldValidation") == ["Strict"]
            return 201, self.create(plural, read(), strict=strict)
        if verb == "list":
            return 200, self._page(plural, {key: values[0] for key, values in parse_qs(parts.query).items()})
        with self._lock:
            if namespace != NAMESPACE or (plural, name) not in self._objects:
                raise RefusedError(404, "NotFound", f'{plural}.ray.io "{name}" not found', name=name, kind=plural)
            if verb == "patch":
                given = read()
                assert "status" not in given
                self.change(plural, name, lambda found: _merge(found, given))
            elif verb == "delete":
                policy = parse_qs(parts.query).get("propagationPolicy")
                self.delete(plural, name, foreground=policy == ["Foreground"])
            return 200, self.get(plural, name) or {"kind": "Status", "status": "Success"}

    def await_end_of_outage(self) -> None:
        """What a hanging request does; who is more patient than this is answered in the end."""
        self._over.wait(5)

    def _page(self, plural: str, asked: dict[str, str]) -> Object:
        label, _, value = asked.get("labelSelector", "").partition("=")
        found = [each for each in self.listed(plural) if each["metadata"].get("labels", {}).get(label) == value]
        begin = int(asked.get("continue", 0))
        end = begin + min(int(asked["limit"]), _PAGE)
        more = {"continue": str(end)} if end < len(found) else {}
        return {"kind": f"{_KINDS[plural]}List", "items": found[begin:end], "metadata": more}

    def _touched(self, found: Object) -> Object:
        self._version += 1
        found["metadata"]["resourceVersion"] = str(self._version)
        return copy.deepcopy(found)

    def _check(self, plural: str, given: Object, *, strict: bool) -> None:
        if self._crds is None:
            return
        errors = list(_schema(self._crds, plural).iter_errors(given))
        unknown = [error.message for error in errors if error.validator == "additionalProperties"]
        if unknown and strict:
            raise RefusedError(400, "BadRequest", f"strict decoding error: unknown field: {unknown[0]}")
        wrong = [f"{error.json_path}: {error.message}" for error in errors if error.validator != "additionalProperties"]
        if wrong:
            name = given["metadata"]["name"]
            raise RefusedError(422, "Invalid", f'{_KINDS[plural]}.ray.io "{name}" is invalid: {wrong[0]}')


def now() -> str:
    """The time as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def forbidden(verb: str, plural: str) -> RefusedError:
    """What a role without a right is answered."""
    who = f"system:serviceaccount:{NAMESPACE}:leader"
    words = f'{plural}.ray.io is forbidden: User "{who}" cannot {verb} resource "{plural}" in API group "ray.io"'
    return RefusedError(403, "Forbidden", f'{words} in the namespace "{NAMESPACE}"')


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, api: KubeApi, *arguments: Any) -> None:  # noqa: ANN401 - what http.server gives
        self._api = api
        super().__init__(*arguments)

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        outage = self._api.outage
        if outage == "hang":
            self._api.await_end_of_outage()
        if outage == "closed":
            self.close_connection = True
            return
        if outage in ("error", "page"):
            self._send(503 if outage == "error" else 200, "<html>Sign in</html>")
            return
        try:
            token = self.headers.get("Authorization", "")
            code, said = self._api.answer(self.command, self.path, token, lambda: json.loads(body))
        except RefusedError as error:
            code, said = error.code, error.status
        if outage == "lost":
            self.close_connection = True
            return
        self._send(code, said)

    do_POST = do_PATCH = do_DELETE = do_GET  # noqa: N815 - the names that http.server looks for

    def _send(self, code: int, said: object) -> None:
        data = (said if isinstance(said, str) else json.dumps(said)).encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain" if isinstance(said, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        with contextlib.suppress(ConnectionError):  # whoever asked may not wait any more
            self.end_headers()
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def _merge(into: Object, given: Object) -> None:
    """RFC 7386."""
    for key, value in given.items():
        if value is None:
            into.pop(key, None)
        elif isinstance(value, dict):
            _merge(into.setdefault(key, {}), value)
        else:
            into[key] = value


@functools.cache
def _schema(crds: Path, plural: str) -> jsonschema.Draft202012Validator:
    """The schema of the resource definition, closed: what it does not name is unknown."""
    content = yaml.load(
        (crds / f"ray.io_{plural}.yaml").read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    )
    (schema,) = (v["schema"]["openAPIV3Schema"] for v in content["spec"]["versions"] if v["name"] == "v1")
    _close(schema)
    return jsonschema.Draft202012Validator(schema)


def _close(schema: object) -> None:
    if isinstance(schema, list):
        for part in schema:
            _close(part)
    elif isinstance(schema, dict):
        if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
            schema.setdefault("additionalProperties", False)
        for part in schema.values():
            _close(part)
