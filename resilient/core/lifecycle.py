"""The lifecycle of results: whether the end of a returned result is still unknown, how its end is followed, and what a
result costs that a later attempt replaces.

Most results are complete when a function returns them. `ResultLifecycle` describes these, and is the default of every
pipeline (`PLAIN_RESULTS`). A response whose body is still to come is not complete: its body may yet fail, and it holds
a connection. A subclass describes such results (for HTTP: `resilient.http.lifecycle`).

The classifier of a pipeline says what an outcome means; the lifecycle says when it is known. A `PipelineContext` holds
both. Transports set the lifecycle when they derive their pipeline from the user's.
"""

from __future__ import annotations

from typing import Any, Protocol

from resilient.core.result import CLOSING_SECONDS

__all__ = ["PLAIN_RESULTS", "EndObserver", "ResultLifecycle"]


class EndObserver(Protocol):
    """An observer of the end of a result that was open when it was returned. One of its methods is called, once."""

    def learn(self, error: Exception | None) -> None:
        """The result ended with this error, which is a failure of the dependency; None: it ended well."""

    def drop(self, *, collected: bool = False) -> None:
        """The end of the result says nothing about the dependency.

        `collected`: the garbage collector found the result, so no code of users may run here.
        """


class ResultLifecycle:
    """The lifecycle of results that are complete when they are returned.

    Attributes:
        may_be_open: whether successful results can be open. If not, `is_open` and `follow` are never called.
        explains: whether results can carry the history of their call. If not, `explain` is never called.
        may_ask_to_wait: whether results can ask for a pause before the next attempt, as errors can.
        aside_seconds: the most seconds that `set_aside` takes.
        closing_seconds: the most seconds that a caller waits for a replaced result to be closed.
        assumes: sentences about what explanations of pipelines assume about these results.

    The last four of these are read by explanations of the worst case only, never on the path of a call.
    """

    may_be_open: bool = False
    explains: bool = False
    may_ask_to_wait: bool = False
    aside_seconds: float = 0.0
    closing_seconds: float = CLOSING_SECONDS
    assumes: tuple[str, ...] = ()

    def is_open(self, result: Any) -> bool:
        """Whether the end of a result is still unknown."""
        return False

    def follow(self, result: Any, observer: EndObserver) -> None:
        """Notify `observer` of the end of an open result, when it has ended."""
        raise NotImplementedError

    def explain(self, result: Any, recorded: Any) -> None:
        """Add the history of a call (a `resilient.core.history.Recorded`) to its result."""
        raise NotImplementedError

    async def set_aside(self, result: Any, runtime: Any) -> None:
        """Free what a result holds (its connection) before the next attempt begins. The caller may still get this
        result, if no later attempt has a better one."""


PLAIN_RESULTS = ResultLifecycle()
"""The default lifecycle: results are complete when they are returned."""
