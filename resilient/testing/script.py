"""A scripted dependency: it answers, fails, hangs or is slow, call by call, as its script says, and records its calls.

    users = Dependency(OSError("down"), Hang(), Slow(2, then="late"), default="here")
    guarded = pipeline(users)               # it is called like an `async def`; `users.plain` is the same as a `def`
    assert await guarded(7) == "late"
    assert users.times == [0, 0.5, 3]

It waits on the runtime of its caller, so it works in virtual time, on any asyncio loop, in trio, and in plain code.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from resilient import _validation
from resilient.core.call import new_call
from resilient.runtime import Parking, Runtime, current_async
from resilient.runtime.threads import THREADS, drive

__all__ = ["Dependency", "Hang", "Received", "Slow"]

PATIENCE = 10.0
"""Seconds after which a call that hangs in plain code ends the test, because nothing else could."""


@dataclass(frozen=True, slots=True)
class Slow:
    """A step that takes `seconds`, and then does `then`: a value is returned, an exception raised."""

    seconds: float
    then: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "seconds", _validation.seconds("seconds", self.seconds, zero=True))


@dataclass(frozen=True, slots=True)
class Hang:
    """A step that does not answer before `Dependency.release()`, and then does `then`.

    In virtual time a test that waits for a call that hangs ends at once, with a `Deadlock` that says where it waits. In
    plain code (`Dependency.plain`) the call fails after 10 seconds.
    """

    then: Any = None


@dataclass(slots=True)
class Received:
    """One call that a `Dependency` received.

    Attributes:
        args, kwargs: its arguments.
        began: when it began, in seconds on the clock of `resilient.testing.now`.
        ended: when it ended; None while it runs.
        result: what it returned.
        error: what it raised; also the caller's cancellation.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    began: float
    ended: float | None = None
    result: Any = None
    error: BaseException | None = field(default=None)


class Dependency:
    """A function that follows a script, one step a call. Call it like an `async def`; `plain` is for plain code.

    Args:
        script: the steps. An exception (or a class of exceptions) is raised, `Slow(...)` and `Hang()` wait, and
            any other value is returned.
        default: the step of all calls after the end of the script. Without it such a call raises `AssertionError`,
            which no policy repeats or answers for.
        name: its name in events. Default "dependency".

    Attributes:
        calls: the calls that it received, in order.
        running: how many calls run now. most: how many ever ran at a time.
        default: may be set at any time: `users.default = OSError("down")`.
    """

    _NONE = object()

    def __init__(self, *script: Any, default: Any = _NONE, name: str = "dependency") -> None:
        self.__name__ = self.__qualname__ = _validation.name("name", name)
        self._script = script
        self.default = default
        self.calls: list[Received] = []
        self.running = self.most = 0
        self._hanging: dict[Parking, None] = {}
        self._lock = threading.RLock()

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Do the next step of the script."""
        return await self._receive(current_async(), args, kwargs)

    @property
    def plain(self) -> Callable[..., Any]:
        """This dependency as a plain function, which blocks its thread when it is slow."""

        def plain(*args: Any, **kwargs: Any) -> Any:
            return drive(self._receive(THREADS, args, kwargs))

        plain.__name__ = plain.__qualname__ = self.__name__
        return plain

    @property
    def times(self) -> list[float]:
        """The begin of each call, in seconds on the clock of `resilient.testing.now`."""
        return [call.began for call in self.calls]

    def release(self) -> None:
        """Let all calls that hang continue: each does what its `Hang` says. Works from any task or thread."""
        with self._lock:
            hanging = tuple(self._hanging)
            self._hanging.clear()
        for parking in hanging:
            parking.wake()

    async def _receive(self, runtime: Runtime, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        received = Received(args, kwargs, runtime.now())
        with self._lock:
            self.calls.append(received)
            number = len(self.calls)
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            received.result = await self._do(self._step(number), runtime)
            return received.result
        except BaseException as error:
            received.error = error
            raise
        finally:
            received.ended = runtime.now()
            with self._lock:
                self.running -= 1

    def _step(self, number: int) -> Any:
        if number <= len(self._script):
            return self._script[number - 1]
        if self.default is Dependency._NONE:
            raise AssertionError(
                f"call {number} of a dependency whose script has {len(self._script)} steps and no default"
            )
        return self.default

    async def _do(self, step: Any, runtime: Runtime) -> Any:
        while isinstance(step, Slow | Hang):
            if isinstance(step, Slow):
                await runtime.sleep(step.seconds)
            else:
                await self._hang(runtime)
            step = step.then
        if isinstance(step, BaseException):
            raise step.with_traceback(None)  # of the calls before
        if isinstance(step, type) and issubclass(step, BaseException):
            raise step()
        return step

    async def _hang(self, runtime: Runtime) -> None:
        parking = runtime.park()
        with self._lock:
            self._hanging[parking] = None
        try:
            patience = PATIENCE if runtime is THREADS else None
            if not await parking.wait(patience, new_call(self.release, (), {}, runtime)):
                raise AssertionError(f"a call hung for {PATIENCE:g} s in plain code: release() lets it go on")
        finally:
            with self._lock:
                self._hanging.pop(parking, None)
