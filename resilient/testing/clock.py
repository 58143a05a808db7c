"""The time of a test: `now`, and `advance` to let time pass.

In virtual time the clock moves by itself whenever everything waits, so most tests need neither: they await a call and
compare `now()`. `advance` is for tests that examine the time in between.
"""

from __future__ import annotations

import asyncio

from resilient import _validation
from resilient.runtime import current
from resilient.runtime.virtual import VirtualLoop

__all__ = ["advance", "now"]


def now() -> float:
    """Return the time in seconds, as policies and events see it. In virtual time it begins at 0; elsewhere it is
    `time.monotonic()` (and in trio, the clock of trio)."""
    return current().now()


async def advance(seconds: float = 0) -> None:
    """Let `seconds` pass. When this returns, all that was due until then has happened, that moment included.

    `advance()` lets everything run that can, and no time pass. In virtual time only; elsewhere it raises
    `RuntimeError`.
    """
    seconds = _validation.seconds("seconds", seconds, zero=True)
    loop = asyncio.get_running_loop()
    if not isinstance(loop, VirtualLoop):
        raise RuntimeError(
            f"only virtual time can be advanced, and this is {type(loop).__qualname__}: mark the test with "
            "@pytest.mark.virtual_time, or run it with resilient.testing.run"
        )
    if seconds:
        await asyncio.sleep(seconds)
    await loop.settled()
