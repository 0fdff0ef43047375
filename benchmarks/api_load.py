"""Load on an API: clients that keep their connections alive and ask at a fixed rate, or as fast as they can."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

ENDED, LIVE, CONNECTIONS = 10_000, 100, 16
MIX = {
    "/v1/runs?limit=50": 25,
    "/v1/runs?state=running&limit=50": 10,
    "/v1/runs?project=maps&limit=50": 5,
    "/v1/runs/{live}": 15,
    "/v1/runs/{ended}": 10,
    "/v1/runs/{live}/events": 15,
    "/v1/runs/{live}/log": 10,
    "/v1/me": 10,
}
"""What is asked, and how often of a hundred times."""


class Target(Protocol):
    """What is asked."""

    @property
    def port(self) -> int: ...

    @property
    def token(self) -> str: ...


@dataclass
class Part:
    """What came of one part of a round."""

    seconds: float = 0.0
    cpu_s: float = 0.0
    took_s: list[float] = field(default_factory=list)
    failed: int = 0

    @property
    def per_s(self) -> float:
        return len(self.took_s) / self.seconds


class Asker:
    """One connection that is kept alive, with no more HTTP than the API's answers need."""

    def __init__(self, api: Target) -> None:
        self._api = api
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, path: str) -> bool:
        """Whether it was answered with 200."""
        try:
            return await self._ask(path)
        except (asyncio.IncompleteReadError, ConnectionError):  # it had been idle for so long that it was closed
            self._streams = None
            return await self._ask(path)

    async def _ask(self, path: str) -> bool:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._api.port)
        reader, writer = self._streams
        head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {self._api.token}\r\n\r\n"
        writer.write(head.encode())
        answer = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", answer)
        assert length is not None, answer
        await reader.readexactly(int(length[1]))
        return answer.startswith(b"HTTP/1.1 200")

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()


def paths(seed: int) -> Iterator[str]:
    """What is asked, one after the other, without end."""
    chance = random.Random(seed)
    while True:
        for path in chance.choices(list(MIX), list(MIX.values()), k=1000):
            yield path.format(live=f"live-{chance.randrange(LIVE)}", ended=f"run-{chance.randrange(ENDED):06d}")


async def steady(api: Target, *, rate: float, seconds: float) -> Part:
    """Requests at a fixed rate; each takes the time since it was due."""
    part, free, asked = Part(), [Asker(api) for _ in range(4 * CONNECTIONS)], paths(1)
    everyone = [*free]
    turn = asyncio.Semaphore(len(free))

    async def one(path: str, due: float) -> None:
        async with turn:
            asker = free.pop()
            part.failed += not await asker.ask(path)
            part.took_s.append(time.perf_counter() - due)
            free.append(asker)

    begin = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(round(rate * seconds)):
            due = begin + number / rate
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            group.create_task(one(next(asked), due))
    part.seconds = time.perf_counter() - begin
    for asker in everyone:
        asker.close()
    return part


async def flat_out(api: Target, *, seconds: float) -> Part:
    """As many as can be."""
    part, begin = Part(), time.perf_counter()

    async def client(seed: int) -> None:
        asker = Asker(api)
        for path in paths(seed):
            start = time.perf_counter()
            if start - begin >= seconds:
                break
            part.failed += not await asker.ask(path)
            part.took_s.append(time.perf_counter() - start)
        asker.close()

    async with asyncio.TaskGroup() as group:
        for seed in range(CONNECTIONS):
            group.create_task(client(seed))
    part.seconds = time.perf_counter() - begin
    return part
