"""The context that the policies of a pipeline share: its name, its classifier, its listeners and its mode.

The classifier is called once for each outcome, however many policies need the verdict: the call keeps the answer. The
mode of a pipeline is its own, or else the global one (`switch_all`).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

from resilient._atomic import members, module_lock, renew_in_forked_child
from resilient.core.call import Call
from resilient.core.call_options import NO_OPTIONS, CallOptions
from resilient.core.callbacks import CallbackError
from resilient.core.classify import REFUSED, Classifier, Verdict
from resilient.core.known_errors import has_only_message
from resilient.core.lifecycle import PLAIN_RESULTS, ResultLifecycle
from resilient.errors import Rejected, Stopped
from resilient.events import Channel

__all__ = ["Mode", "PipelineContext", "contexts_by_name", "switch_all"]

Mode = Literal["on", "off", "once", "instant"]


class PipelineContext:
    """The context that the policies of one pipeline share.

    Args:
        derived_from: the context of the pipeline that this one is derived from. The two have the same channel, and are
            switched together.

    Attributes:
        name: the pipeline's name, or "".
        classifier: decides what an outcome means.
        lifecycle: decides when the end of a result is known, and what a replaced result costs.
        call_options: reads the options of calls themselves: their dependency, their number of attempts.
        channel: where events go.
        counters: counts what happens, for metrics.
        repeats: whether a policy of the pipeline may run a call more than once.
        mode: "on"; "off" (functions run unguarded); "once" (no second attempt); "instant" (no waits between attempts).
        parts: the objects with state in this pipeline: its policies, and its calls in flight.
        is_bound: whether the pipeline guards anything.
        renewals: functions that renew these parts in a forked child.
        usual: verdicts on errors by their class, for errors with nothing but a message (`Classifier.usual`).
        on_result(call, result): the verdict on a result, as `on_error` gives the verdict on an error. The classifier
            chooses this function once (`Classifier.on_result`).
    """

    __slots__ = (
        "__weakref__",
        "_family",
        "call_options",
        "channel",
        "classifier",
        "counters",
        "is_bound",
        "lifecycle",
        "mode",
        "name",
        "on_result",
        "parts",
        "renewals",
        "repeats",
        "usual",
    )

    def __init__(
        self,
        name: str,
        classifier: Classifier,
        *,
        repeats: bool = False,
        lifecycle: ResultLifecycle = PLAIN_RESULTS,
        call_options: CallOptions = NO_OPTIONS,
        derived_from: PipelineContext | None = None,
    ) -> None:
        self.name = name
        self.classifier = classifier
        self.lifecycle = lifecycle
        self.call_options = call_options
        self.on_result: Callable[[Call, Any], Verdict] = classifier.on_result(self._result)
        self.usual = classifier.usual
        self.repeats = repeats
        self.parts: Sequence[object] = ()
        self.is_bound = False
        self.renewals: Sequence[Callable[[], None]] = ()
        self.channel: Channel = Channel(name) if derived_from is None else derived_from.channel
        self.counters = self.channel.counters
        self._family: _Family = _Family() if derived_from is None else derived_from._family
        self.mode: Mode = "on"  # a signal handler or another thread may read it as soon as it is entered
        with _lock:
            self._family.add(self)
            _contexts.add(self)
            self.mode = self._family.mode or _mode_of_all or "on"
        renew_in_forked_child(self)

    def renew(self) -> None:
        """In a forked child: renew all parts of the pipeline."""
        for renew in self.renewals:
            renew()

    def on_error(self, call: Call, error: Exception) -> Verdict:
        """The verdict on an error that an attempt of `call` raised.

        The classifier is called once; the call keeps the verdict for the next policy. It is not called for a
        `Rejected`, nor for most errors if it is a `Classifier` without filters (`Classifier.usual`). An error that it
        raises leaves as a `CallbackError`.
        """
        usual = self.usual.get(type(error))
        if usual is not None and has_only_message(error):
            return usual
        known, classifier = call.verdict, self.classifier
        if known is not None and known[1] is error and known[0] is classifier:
            return _kept(known[2])
        cause = error.error if type(error) is Stopped else error  # as `bare`, without its frame
        if issubclass(type(cause), Rejected):
            return REFUSED
        try:
            verdict = classifier.error(cause)
            if type(verdict) is not Verdict:
                _check(verdict, classifier, "error")
        except Exception as raised:
            raise self._failed(call, error, cause, raised) from None
        call.verdict = classifier, error, verdict
        return verdict

    def _result(self, call: Call, result: Any) -> Verdict:
        """The verdict on a result. The classifier is called once; the call keeps the verdict."""
        known, classifier = call.verdict, self.classifier
        if known is not None and known[1] is result and known[0] is classifier:
            return _kept(known[2])
        try:
            verdict = classifier.result(result)
            if type(verdict) is not Verdict:
                _check(verdict, classifier, "result")
        except Exception as raised:
            raise self._failed(call, result, result, raised) from None
        call.verdict = classifier, result, verdict
        return verdict

    def _failed(self, call: Call, outcome: Any, about: Any, raised: Exception) -> CallbackError:
        """The `CallbackError` of a classifier that raised. The call keeps it as if it were the verdict."""
        callback_error = CallbackError(raised, about)
        call.verdict = self.classifier, outcome, callback_error
        return callback_error

    @property
    def own_mode(self) -> Mode | None:
        """The mode of this pipeline; None: it follows the global mode."""
        return self._family.mode

    def switch(self, mode: Mode | None) -> None:
        """Set the mode of this pipeline, which overrides the global mode. None: follow the global mode."""
        _check_mode(mode)
        with _lock:
            self._family.mode = mode
            for context in members(self._family):
                context._follow_family()

    def _follow_family(self) -> None:
        self.mode = self._family.mode or _mode_of_all or "on"
        self.channel.notify_watcher()


def contexts_by_name() -> dict[str, list[PipelineContext]]:
    """The contexts of all pipelines that exist, by the name under which they are counted. Those of simulations are left
    out; and those of pipelines that guard nothing themselves, if pipelines that are derived from them do."""
    found: dict[str, list[PipelineContext]] = {}
    for context in members(_contexts):
        if not context.channel.hidden and (
            context.is_bound or not any(each.is_bound for each in members(context._family))
        ):
            found.setdefault(context.counters.name, []).append(context)
    return dict(sorted(found.items()))


class _Family(weakref.WeakSet[PipelineContext]):
    """The contexts of a pipeline and of those derived from it, and the mode that they share."""

    mode: Mode | None = None


def _kept(known: Verdict | CallbackError) -> Verdict:
    """The verdict that a call keeps; or raises the error that the classifier raised instead."""
    if type(known) is CallbackError:
        raise known
    return known  # type: ignore[return-value]


def _check(verdict: object, classifier: Classifier, method: str) -> None:
    """Raise `TypeError` for an answer of a classifier that is no verdict."""
    if not isinstance(verdict, Verdict):
        raise TypeError(f"{type(classifier).__name__}.{method}() must return a Verdict, got {verdict!r}")


def _check_mode(mode: Mode | None) -> None:
    """Raise `ValueError` for a value that is neither a mode nor None."""
    if mode is not None and mode not in get_args(Mode):
        raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}, or None, got {mode!r}")


_lock = module_lock()
_contexts: weakref.WeakSet[PipelineContext] = weakref.WeakSet()
_mode_of_all: Mode | None = None


def switch_all(mode: Mode | None) -> Mode | None:
    """Set the mode of all pipelines that have no mode of their own. Returns the global mode before."""
    global _mode_of_all
    _check_mode(mode)
    with _lock:
        before, _mode_of_all = _mode_of_all, mode
        for context in members(_contexts):
            context._follow_family()
    return before
