"""The HTTP service: pictures in, vectors out, those of several requests embedded together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus

import numpy as np
import ray
import torch
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from ray import serve
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser

from jobs.embedding.encoder import Floats, PackedEncoder
from jobs.shards.decode import PictureError, Pixels
from jobs.training.ranks import pick_device

_DECODERS = 2


@dataclass(frozen=True)
class Limits:
    """What a replica puts up with.

    Attributes:
        max_batch: Most pictures that go through the encoder at once.
        max_wait_s: Longest wait for others to go with, in seconds.
        max_bytes: Largest body of a request.
    """

    max_batch: int
    max_wait_s: float
    max_bytes: int


class EmbeddingService:
    """One replica. Pictures of all requests that wait go through the encoder in one batch, computed by one thread.

    Args:
        encoder: A `PackedEncoder` in Ray's object store: weights are not to travel through Serve's controller.
        limits: What it puts up with.
        threads: Compute threads.
    """

    def __init__(self, encoder: ray.ObjectRef, limits: Limits, threads: int) -> None:
        self._packed: PackedEncoder = ray.get(encoder)
        self._encoder = self._packed.unpack(pick_device(0))
        self._limits = limits
        self._compute = ThreadPoolExecutor(1, "compute", initializer=torch.set_num_threads, initargs=(threads,))
        self._decoders = ThreadPoolExecutor(_DECODERS, "decode")
        batched = serve.batch(max_batch_size=limits.max_batch, batch_wait_timeout_s=limits.max_wait_s)
        self._embed_one = batched(self._embed_batch)
        # The width of a vector, and a first batch that no request has to wait for.
        self._width = int(self._encoder([np.zeros((1, 1, 3), np.uint8)]).shape[1])

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The routes, as Serve asks for them in each replica."""
        app = FastAPI(title="reco", docs_url=None, redoc_url=None, openapi_url=None)
        app.add_exception_handler(HTTPException, _problem)
        app.add_exception_handler(Exception, _problem)
        app.add_api_route("/healthz", self._health, methods=["GET"])
        app.add_api_route("/v1/model", self._describe, methods=["GET"])
        app.add_api_route("/v1/embed", self._answer, methods=["POST"])
        return app

    def check_health(self) -> None:
        """Serve's own probe: a replica whose encoder is gone would have failed to start."""

    async def _health(self) -> dict[str, str]:
        return {"status": "ok"}

    async def _describe(self) -> dict[str, object]:
        return {
            "model": self._packed.reference,
            "sha256": self._packed.sha256,
            "preprocessing": self._packed.preprocessing.as_dict(),
            "feature_dim": self._width,
        }

    async def _answer(self, request: Request) -> JSONResponse:
        """Embed one picture, the body itself, or several, the files of a form."""
        pictures = await self._decode_all(await self._pictures_of(request))
        embedded = await asyncio.gather(*map(self._embed_one, pictures))
        # How many went together tells whether --max-wait-ms and --max-batch suit the load.
        together = max(batch for _, batch in embedded)
        return JSONResponse(
            {
                "model": self._packed.reference,
                "sha256": self._packed.sha256,
                "dim": self._width,
                "embeddings": [vector.tolist() for vector, _ in embedded],
            },
            headers={"Reco-Batch": str(together)},
        )

    async def _embed_batch(self, pictures: list[Pixels]) -> list[tuple[Floats, int]]:
        """Vector of each picture, and how many there were."""
        loop = asyncio.get_running_loop()
        vectors = await loop.run_in_executor(self._compute, self._encoder, pictures)
        return [(vector, len(pictures)) for vector in vectors]

    async def _decode_all(self, encoded: list[tuple[str, bytes]]) -> list[Pixels]:
        loop = asyncio.get_running_loop()
        tasks = [loop.run_in_executor(self._decoders, self._encoder.decode, data) for _, data in encoded]
        decoded = await asyncio.gather(*tasks, return_exceptions=True)
        pictures: list[Pixels] = []
        for (name, _), outcome in zip(encoded, decoded, strict=True):
            if isinstance(outcome, PictureError):
                raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, f"{name}: {outcome.message}")
            if isinstance(outcome, BaseException):
                raise outcome
            pictures.append(outcome)
        return pictures

    async def _pictures_of(self, request: Request) -> list[tuple[str, bytes]]:
        """Name for messages, and bytes, of each picture of a request."""
        body = await self._body(request)
        if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            return [("the body", body)]
        try:
            form = await MultiPartParser(request.headers, _at_once(body), max_part_size=self._limits.max_bytes).parse()
        except (MultiPartException, KeyError) as error:
            raise HTTPException(HTTPStatus.BAD_REQUEST, f"this is no form: {error}") from error
        try:
            files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
            if not files:
                raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, "the form has no file")
            return [(f"file {n} ({file.filename})", await file.read()) for n, file in enumerate(files, start=1)]
        finally:
            await form.close()

    async def _body(self, request: Request) -> bytes:
        most = self._limits.max_bytes
        too_large = HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a request may have at most {most:,} bytes")
        announced = request.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > most:
            raise too_large
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                raise too_large
        return bytes(body)


def application(encoder: ray.ObjectRef, limits: Limits, *, replicas: int, cpus: int, gpus: int) -> serve.Application:
    """The service as Serve runs it.

    Args:
        encoder: A `PackedEncoder` in Ray's object store.
        limits: What each replica puts up with.
        replicas: How many.
        cpus: Cores of each.
        gpus: GPUs of each, 0 or 1.
    """
    # What is under way has to outnumber a batch, or none is ever full; what waits beyond that is turned away with 503.
    deployment = serve.deployment(
        name="embed",
        num_replicas=replicas,
        max_ongoing_requests=4 * limits.max_batch,
        max_queued_requests=16 * limits.max_batch,
        ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
        graceful_shutdown_timeout_s=10,
    )
    return deployment(serve.ingress()(EmbeddingService)).bind(encoder, limits, cpus)


async def _problem(_: Request, error: Exception) -> JSONResponse:
    """An error as RFC 9457 has it."""
    status = error.status_code if isinstance(error, HTTPException) else HTTPStatus.INTERNAL_SERVER_ERROR
    phrase = HTTPStatus(status).phrase
    detail = error.detail if isinstance(error, HTTPException) else phrase
    return JSONResponse(
        {"type": "about:blank", "title": phrase, "status": int(status), "detail": detail},
        status_code=int(status),
        headers=dict(error.headers) if isinstance(error, HTTPException) and error.headers else None,
        media_type="application/problem+json",
    )


async def _at_once(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body
    yield b""
