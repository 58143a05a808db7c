"""What a pipeline gives its policies: its name, one judgement for all of them, its listeners, and how it is switched.

The classifier of a pipeline is asked once about each outcome, however many policies want to know. The mode of a
pipeline is its own, or else that of all (`switch_all`).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

from resilient._atomic import Renewed, members, module_lock, renew_in_forked_child
from resilient.core.call import Call
from resilient.core.call_options import NO_OPTIONS, CallOptions
from resilient.core.callbacks import CallbackError
from resilient.core.classify import REFUSED, Classifier, Verdict
from resilient.core.known_errors import is_bare
from resilient.core.lifecycle import PLAIN_RESULTS, ResultLifecycle
from resilient.errors import Rejected, Stopped
from resilient.events import Channel

__all__ = ["Mode", "PipelineContext", "switch_all"]

Mode = Literal["on", "off", "once", "instant"]


class PipelineContext:
    """What a pipeline gives its policies.

    Attributes:
        name: the pipeline's name, or "".
        judge: the pipeline's classifier.
        channel: where events go.
        repeats: whether one of its policies may run a call more than once.
        mode: "on"; "off" (functions run unguarded); "once" (no second attempt); "instant" (no waits between attempts).
        parts: what has state in this pipeline; a forked child renews it.
        on_result: the verdict on a result of a call, as `on_error` has the one on an error. What is called has been
            chosen by the classifier (`Classifier.on_result`).

    Twins have the same listeners, and are switched together.
    """

    __slots__ = (
        "__weakref__",
        "_family",
        "_usual",
        "channel",
        "classifier",
        "lifecycle",
        "mode",
        "name",
        "on_result",
        "options",
        "parts",
        "repeats",
    )

    def __init__(
        self,
        name: str,
        classifier: Classifier,
        *,
        repeats: bool = False,
        lifecycle: ResultLifecycle = PLAIN_RESULTS,
        options: CallOptions = NO_OPTIONS,
        twin: PipelineContext | None = None,
    ) -> None:
        self.name = name
        self.classifier = classifier
        self.lifecycle = lifecycle
        self.options = options
        self.on_result: Callable[[Call, Any], Verdict] = classifier.on_result(self._ask)
        self._usual = classifier.usual
        self.repeats = repeats
        self.parts: Sequence[Renewed] = ()
        self.channel: Channel = Channel(name) if twin is None else twin.channel
        self._family: _Family = _Family() if twin is None else twin._family
        with _lock:
            self._family.add(self)
            _scopes.add(self)
            self.mode: Mode = self._family.mode or _mode_of_all or "on"
        renew_in_forked_child(self)

    def renew(self) -> None:
        """In a forked child: renew all that is in this pipeline."""
        for part in self.parts:
            part.renew()

    def on_error(self, call: Call, error: Exception) -> Verdict:
        """The verdict on what an attempt of `call` raised. The classifier is asked once; who asks again, finds the
        answer on the call. What the classifier raises leaves as a `CallbackError`. A `Rejected` is
        judged without it; so are most errors where it is `Classifier` itself without filters (`Classifier.usual`)."""
        usual = self._usual.get(type(error))
        if usual is not None and is_bare(error):
            return usual
        known, classifier = call.verdict, self.classifier
        if known is not None and known[1] is error and known[0] is classifier:
            return _again(known[2])
        bare_error = error.error if type(error) is Stopped else error  # as `bare`, without its frame
        if issubclass(type(bare_error), Rejected):
            return REFUSED
        try:
            verdict = classifier.error(bare_error)
            if type(verdict) is not Verdict:
                _refuse(classifier, "error", verdict)
        except Exception as raised:
            callback_error = CallbackError(raised, bare_error)
            call.verdict = classifier, error, callback_error
            raise callback_error from None
        call.verdict = classifier, error, verdict
        return verdict

    def _ask(self, call: Call, result: Any) -> Verdict:
        """The verdict on a result: the classifier is asked once, and the answer kept on the call."""
        known, classifier = call.verdict, self.classifier
        if known is not None and known[1] is result and known[0] is classifier:
            return _again(known[2])
        try:
            verdict = classifier.result(result)
            if type(verdict) is not Verdict:
                _refuse(classifier, "result", verdict)
        except Exception as raised:
            callback_error = CallbackError(raised, result)
            call.verdict = classifier, result, callback_error
            raise callback_error from None
        call.verdict = classifier, result, verdict
        return verdict

    @property
    def own_mode(self) -> Mode | None:
        """This pipeline's own mode; None follows the global one."""
        return self._family.mode

    def switch(self, mode: Mode | None) -> None:
        """Set the mode of this pipeline; it goes before the global one. None: follow the global one again."""
        _check_mode(mode)
        with _lock:
            self._family.mode = mode
            for context in members(self._family):
                context._follow_family()

    def _follow_family(self) -> None:
        self.mode = self._family.mode or _mode_of_all or "on"
        self.channel.tell_watcher()


class _Family(weakref.WeakSet[PipelineContext]):
    """The scopes of a pipeline and of its twins, and the mode that they share."""

    mode: Mode | None = None


def _again(known: Verdict | CallbackError) -> Verdict:
    if type(known) is CallbackError:
        raise known
    return known  # type: ignore[return-value]


def _refuse(classifier: Classifier, method: str, verdict: object) -> None:
    if not isinstance(verdict, Verdict):
        raise TypeError(f"{type(classifier).__name__}.{method}() must return a Verdict, got {verdict!r}")


def _check_mode(mode: Mode | None) -> None:
    """Raise `ValueError` for what is neither a mode nor None."""
    if mode is not None and mode not in get_args(Mode):
        raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}, or None, got {mode!r}")


_lock = module_lock()
_scopes: weakref.WeakSet[PipelineContext] = weakref.WeakSet()
_mode_of_all: Mode | None = None


def switch_all(mode: Mode | None) -> Mode | None:
    """Set the global mode, for pipelines that have none of their own. Returns the one before."""
    global _mode_of_all
    _check_mode(mode)
    with _lock:
        before, _mode_of_all = _mode_of_all, mode
        for context in members(_scopes):
            context._follow_family()
    return before
