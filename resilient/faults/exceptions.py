"""The endings of a request that gets no answer, and the exceptions that one place raises for them.

A crash is a `ConnectionRefusedError` for a function, and a `ConnectError` for a client of httpx; both are one ending,
"refused". A fault has an ending; `Exceptions` has the exception of a place for each ending.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["LOST", "PYTHON", "Exceptions", "FaultEnding"]

LOST = 900.0
"""Seconds after which a request that never gets an answer fails: about 15 minutes, as Linux gives up a connection whose
peer does not acknowledge any more (`tcp_retries2`)."""

FaultEnding = Literal["error", "result", "refused", "reset", "unreachable", "silent"]
"""The end of a request that gets no answer: an error; a result; a connection that is refused or reset; or nothing, from
a host that cannot be reached ("unreachable") or one that had accepted the request ("silent")."""


@dataclass(frozen=True, slots=True)
class Exceptions:
    """The exceptions that one place raises, each made from a message.

    Attributes:
        error: for `Errors` that name neither a status nor an exception.
        refused, reset, unreachable, silent: for the other endings.
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
"""Python's own exceptions, for calls that are not requests of a client library."""
