"""Switching pipelines, for tests and for operations: off, without second attempts, or without waits."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from resilient.core.context import Mode, switch_all

__all__ = ["Switch", "switch"]


class Switch:
    """Returned by `switch` and `Pipeline.switch`: as a context manager it restores the mode at the end of its block.
    Without a `with` the new mode stays."""

    def __init__(self, undo: Callable[[], Any]) -> None:
        self._undo = undo

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo()


def switch(mode: Mode | None) -> Switch:
    """Set the mode of all pipelines that have no mode of their own.

    "on"; "off": functions run unguarded; "once": no second attempts; "instant": no waits between attempts; None: the
    same as "on". For tests (`with switch("instant"): ...`) and for operations (`switch("off")` stays).
    """
    before = switch_all(mode)
    return Switch(lambda: switch_all(before))
