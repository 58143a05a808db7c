"""The events of a call on its span: their names and attributes.

The names are those of the metrics of the same things (`resilient.observe.metrics.TABLE`), in the singular. An attribute
has the key of the metric's label where there is one, so that a backend can lead from one to the other. Seconds are
`resilient.seconds`: how long a wait is or was, the limit of a Timeout, the delay of a fault.

An event has no message of an error: it may quote what was sent. Errors are known by `error.type`, refusals by a code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from resilient import events
from resilient.events import Event
from resilient.observe.opentelemetry.attributes import NAMESPACE, attribute

__all__ = ["ERROR_TYPE", "NAMES", "attributes_of", "type_name"]

ERROR_TYPE = "error.type"

NAMES: Mapping[type[Event], str] = {
    events.Retrying: f"{NAMESPACE}retry",
    events.GaveUp: f"{NAMESPACE}retries.ended",
    events.Hedging: f"{NAMESPACE}hedge",
    events.HedgeWon: f"{NAMESPACE}hedge.won",
    events.BudgetExhausted: f"{NAMESPACE}budget.exhausted",
    events.FellBack: f"{NAMESPACE}fallback",
    events.Queued: f"{NAMESPACE}queue",
    events.Waited: f"{NAMESPACE}wait",
    events.CallRejected: f"{NAMESPACE}rejection",
    events.CallTimedOut: f"{NAMESPACE}timeout",
    events.CircuitChanged: f"{NAMESPACE}circuit.transition",
    events.FaultInjected: f"{NAMESPACE}fault",
}
"""The name of the span event for each kind of event that a span shows. (How attempts and calls end is in the attributes
of their own spans.)"""

_KEYS = {
    "attempt": attribute("attempt"),
    "attempts": attribute("attempts"),
    "copies": attribute("copies"),
    "copy": attribute("copy"),
    "fault": attribute("fault"),
    "kind": attribute("reason"),
    "new": attribute("state"),
    "old": attribute("state.old"),
    "policy": attribute("policy"),
    "position": attribute("position"),
    "retry_after": attribute("retry_after"),
    "seconds": attribute("seconds"),
    "wait": attribute("seconds"),
    "what": attribute("reason"),
    "why": attribute("reason"),
}
"""The attribute keys of fields that are shown as they are, if they are not None."""


def _reason(reason: str) -> str:
    """The code of a reason, if it has one; else its text."""
    return getattr(reason, "code", None) or str(reason)


_SHOWN: Mapping[str, tuple[str, Callable[[Any], str | bool]]] = {
    "error": (ERROR_TYPE, lambda error: type_name(type(error))),
    "reason": (attribute("reason"), _reason),
}


def type_name(kind: type) -> str:
    """The name of a class of errors, as OpenTelemetry writes it: with its module, unless it is built in."""
    module = kind.__module__
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"


def attributes_of(event: Event) -> dict[str, Any]:
    """The attributes of the span event for an event."""
    found: dict[str, Any] = {}
    for field, value in vars(event).items():
        if value is None:
            continue
        if field in _KEYS:
            found[_KEYS[field]] = value
        elif field in _SHOWN:
            key, shown = _SHOWN[field]
            found[key] = shown(value)
    if getattr(event, "shadow", False):
        found[attribute("shadow")] = True
    return found
