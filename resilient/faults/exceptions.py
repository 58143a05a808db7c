"""How a request ends that gets no answer, and the exceptions in which one place says so.

A crash is a `ConnectionRefusedError` to a function, and a `ConnectError` to a client of httpx; both are one ending,
"refused". `resilient.faults` says which fault ends how, and `Exceptions` has the names of a place for each ending.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["LOST", "PYTHON", "Exceptions", "FaultEnding"]

LOST = 900.0
"""Seconds after which a request is given up that never gets an answer: as Linux gives up a connection that is not
acknowledged any more (`tcp_retries2`, about 15 minutes)."""

FaultEnding = Literal["error", "result", "refused", "reset", "unreachable", "silent"]
"""What a request gets instead of an answer: an error, a result, a connection that is refused or breaks, or nothing at
all (from nobody, or from somebody who had accepted it)."""


@dataclass(frozen=True, slots=True)
class Exceptions:
    """The exceptions in which one place says what has happened, each made of a message.

    Attributes:
        error: of `Errors` that name neither a status nor an exception.
        refused, reset, unreachable, silent: of the other endings.
    """

    error: Callable[[str], Exception] = ConnectionError
    refused: Callable[[str], Exception] = ConnectionRefusedError
    reset: Callable[[str], Exception] = ConnectionResetError
    unreachable: Callable[[str], Exception] = TimeoutError
    silent: Callable[[str], Exception] = TimeoutError

    @classmethod
    def of_client(cls, module: Any) -> Exceptions:
        """The exceptions of a client library, `httpx` or `httpx2`."""
        return cls(
            error=module.ConnectError,
            refused=module.ConnectError,
            reset=module.ReadError,
            unreachable=module.ConnectTimeout,
            silent=module.ReadTimeout,
        )


PYTHON = Exceptions()
"""Python's own, for calls that are no requests of a client library."""
