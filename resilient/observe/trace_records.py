"""The records in a trace: calls, attempts, classes of errors, and the actions that policies in shadow mode would have
taken.

`resilient.observe.trace_file` reads them from the files that `resilient.observe.trace` writes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from resilient.observe.evidence import Evidence

__all__ = ["Trace", "TraceError", "TracedAttempt", "TracedCall", "TracedKind", "WouldHave"]


class TraceError(ValueError):
    """Raised for a file that is not a trace, or not a valid one. The message is one line that says where and why."""


@dataclass(frozen=True, slots=True)
class TracedCall:
    """A call: when it began (seconds from the first one), how many seconds and requests it took, how it ended (as in
    `resilient.events.CallEnded`), the class of its error, its pipeline, and its key."""

    begin: float
    seconds: float
    requests: int
    ending: str
    error: str | None = None
    pipeline: str = ""
    key: str | None = None


@dataclass(frozen=True, slots=True)
class TracedAttempt:
    """One call of the function itself.

    `error`: the name of its error's class, `module:Qualified.Name`. `failed`: it raised, or returned a result that is
    classified as a failure (then `error` is None). `cut`: it was cancelled, so its latency would have been longer, and
    its outcome is not known. `ignored`: it raised an error that was classified as no evidence about the dependency.
    `evidence`: the facts by which its error, or its failed result, can be classified again.
    """

    begin: float
    seconds: float
    number: int
    error: str | None = None
    failed: bool = False
    cut: bool = False
    pipeline: str = ""
    key: str | None = None
    ignored: bool = False
    evidence: Evidence | None = None


@dataclass(frozen=True, slots=True)
class TracedKind:
    """A class of errors in a trace.

    Attributes:
        above: the names of its base classes.
        local: whether the class cannot be imported by its name: it is defined in a function, or its `__module__` names
            the module of another class.
    """

    above: tuple[str, ...] = ()
    local: bool = False


@dataclass(frozen=True, slots=True)
class WouldHave:
    """An action that a policy in shadow mode would have taken: "retry", "hedge", "refuse" or "wait"."""

    at: float
    what: str
    policy: str
    pipeline: str = ""


@dataclass(frozen=True, slots=True)
class Trace:
    """The contents of one or several recordings.

    Attributes:
        began: when recording began, as its header says; of several recordings, the first.
        calls, attempts, shadows: in the order of their begin.
        dropped: lines that were not written. complete: each recording was closed, and neither cut off nor full.
        kinds: classes of errors, by name.
    """

    began: str
    calls: list[TracedCall] = field(default_factory=list)
    attempts: list[TracedAttempt] = field(default_factory=list)
    shadows: list[WouldHave] = field(default_factory=list)
    dropped: int = 0
    complete: bool = False
    kinds: dict[str, TracedKind] = field(default_factory=dict)

    @property
    def pipelines(self) -> list[str]:
        """The names of the pipelines whose calls are in the trace."""
        return sorted({call.pipeline for call in self.calls})

    def of(self, pipeline: str) -> Trace:
        """Return the part of the trace that belongs to one pipeline."""
        return replace(
            self,
            calls=[each for each in self.calls if each.pipeline == pipeline],
            attempts=[each for each in self.attempts if each.pipeline == pipeline],
            shadows=[each for each in self.shadows if each.pipeline == pipeline],
        )
