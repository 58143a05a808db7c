"""The time of a test: what it is, and letting it go by.

In virtual time it goes by by itself whenever everybody waits, so most tests need neither of these: they await a call
and look at `now()`. `advance` is for looking at what happens meanwhile.
"""

from __future__ import annotations

import asyncio

from resilient import _validation
from resilient.runtime import current
from resilient.runtime.virtual import VirtualLoop

__all__ = ["advance", "now"]


def now() -> float:
    """The time in seconds, as policies and events see it. In virtual time it begins at 0; elsewhere it is
    `time.monotonic()` (and in trio, trio's clock)."""
    return current().now()


async def advance(seconds: float = 0) -> None:
    """Let `seconds` go by: when this returns, all that was to happen until then has happened, that moment included.

    `advance()` lets everybody run who can, and no time go by. In virtual time only; elsewhere it raises `RuntimeError`.
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
