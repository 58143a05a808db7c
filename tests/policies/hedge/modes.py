"""What the tests of Hedge share: the modes that each behaviour runs in, and scripted copies.

    def test_late_call_is_sent_once_more(mode):
        dependency = mode.dependency(Hang(), 7)                # the first copy hangs, the second one answers 7
        assert mode.call(mode.hedge(SOON)(dependency.fn)) == 7

A test in virtual time takes the fixture `inline` instead, and scripts its copies with `copies(Slow(20, 1), 7)`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import sniffio
import trio

from resilient import Classifier, Hedge, Pipeline
from tests.worlds import WORLDS, Dependency, World

SOON = 0.02
LATER = 0.1
LONG = 60.0


class Mode:
    """A world, and a kind of hedge: with each copy in the background, or with an inline first copy."""

    def __init__(self, world: World, inline: bool) -> None:
        self.world = world
        self.inline = inline
        self.dependency = world.dependency
        self.call = world.call
        self.outcome = world.outcome
        self.now = world.now

    def hedge(self, delay: Any, **options: Any) -> Hedge:
        """A Hedge of this mode."""
        return Hedge(delay, inline=self.inline, thread=not self.world.is_async, **options)

    def call_and_close(self, pipeline: Pipeline, fn: Callable[..., Any]) -> Any:
        """Call an async function through a pipeline, and then close the pipeline, which awaits all losers. Returns the
        result of the call, or raises its error."""

        async def main() -> Any:
            try:
                return await pipeline.call(fn)
            finally:
                await pipeline.aclose()

        return self.world.run(main)


MODES = [(kind, inline) for kind in WORLDS for inline in (False, True) if kind.is_async or not inline]


def copies(*script: Any) -> Dependency:
    """An async dependency whose calls, the copies of hedged calls, follow `script`."""
    return Dependency(script, is_async=True)


def rendezvous(number: int) -> Callable[[], Coroutine[Any, Any, None]]:
    """A coroutine function whose calls wait for each other: when there are `number` of them, all return in one tick."""
    waiting = 0
    met: asyncio.Event | trio.Event | None = None

    async def meet() -> None:
        nonlocal waiting, met
        if met is None:
            met = trio.Event() if sniffio.current_async_library() == "trio" else asyncio.Event()
        waiting += 1
        if waiting == number:
            met.set()
        await met.wait()

    return meet


def bad_is_unacceptable() -> Classifier:
    """A classifier for which results that begin with "bad" are failures, BlockingIOError is fatal, and KeyError is
    ignored."""
    return Classifier(results=lambda result: str(result).startswith("bad"), fatal=BlockingIOError, ignore=KeyError)


def loop_time() -> float:
    """The time of the running event loop, in seconds; virtual time begins at 0."""
    return asyncio.get_running_loop().time()


class Response:
    """A result that must be closed, because it has a status.

    Attributes:
        closed: the names of the methods that have closed it, one for each call.
    """

    status_code = 200

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.closed: list[str] = []

    async def aclose(self) -> None:
        self.closed.append("aclose")

    def close(self) -> None:
        self.closed.append("close")


class Session(Response):
    """A result that may be shared with other calls: it can be closed, but has no status."""

    status_code = None  # type: ignore[assignment]


class Sticky(Response):
    """A response whose closing takes a minute."""

    async def aclose(self) -> None:
        await asyncio.sleep(LONG)
