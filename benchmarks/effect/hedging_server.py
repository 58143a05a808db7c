"""The server of `hedging`: it sleeps before each answer, fails now and then, and counts.

A request is `/CONTENDER/NUMBER`. Its time, and whether it is answered with 503, depend only on its number and on which
copy of it arrives. So all contenders have the same requests, and the draws of copies are independent. The time is 5 ms
plus that of E2 (lognormal, 5 ms on average with a deviation of 2 ms); one copy in twenty takes ten times as long. Three
in a thousand are answered with 503, after 5 ms.

`/counts` returns, for each contender, how many copies of each number have arrived, and how many connections they
opened."""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections import Counter
from typing import Any

from benchmarks.effect.latencies import DEVIATION, FACTOR, MEAN, SLOW
from benchmarks.harness import loopback

__all__ = ["DEVIATION", "FACTOR", "LEAST", "MEAN", "REFUSED", "SLOW", "draw"]

LEAST, REFUSED = 5.0, 0.003
"""The least milliseconds of an answer, and the share of copies answered with 503."""
_VARIANCE = math.log1p((DEVIATION / MEAN) ** 2)
_LOGARITHM = math.log(MEAN) - _VARIANCE / 2, math.sqrt(_VARIANCE)


def draw(number: int, copy: int) -> tuple[float, int]:
    """The milliseconds and the status of one copy of one request."""
    generator = random.Random(f"{number} {copy}")
    if generator.random() < REFUSED:
        return LEAST, 503
    factor = FACTOR if generator.random() < SLOW else 1.0
    return factor * (LEAST + generator.lognormvariate(*_LOGARITHM)), 200


class Counting:
    """The ASGI application: it sleeps, answers, and counts copies and connections."""

    def __init__(self) -> None:
        self.copies: dict[str, Counter[int]] = {}
        self.opened: dict[str, Counter[int]] = {}
        self._known: set[Any] = set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        _, contender, *rest = scope["path"].split("/")
        if contender == "counts":
            counts = {"copies": self.copies, "opened": self.opened}
            await _answer(send, 200, json.dumps(counts).encode())
            return
        number = int(rest[0])
        if scope["client"] not in self._known:
            self._known.add(scope["client"])
            self.opened.setdefault(contender, Counter())[number] += 1
        arrived = self.copies.setdefault(contender, Counter())
        arrived[number] += 1
        milliseconds, status = draw(number, arrived[number])
        await asyncio.sleep(milliseconds / 1000)
        await _answer(send, status, loopback.BODY)


async def _answer(send: Any, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    loopback.serve(Counting())
