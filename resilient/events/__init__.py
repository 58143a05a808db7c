"""Events that happened to calls, as frozen records (`resilient.events.records`) for logs, metrics and tests.

    stop = users.listen(on_end, CallEnded)              # one kind of event, of one pipeline
    stop = events.listen(on_refusal, CallRejected, CallTimedOut)            # two kinds, of all pipelines
    stop = events.listen(print)                         # everything

A listener is any callable that takes one event. It listens to one pipeline (`pipeline.listen(fn)`) or to all of them
(`events.listen(fn)`); both return a function that removes it. Further arguments are the classes of events it wants,
derived classes included. An event that no listener wants is not built: a listener of `CallEnded` alone costs a call a
third of a listener that gets everything.

A listener of everything can distinguish the kinds by `match`; `AnyEvent` is their union for type checkers.

An error of a listener is logged: observing a call can never fail it. Listeners run synchronously, in the
thread and task of the call, with no lock held; they must be quick.

`at` is the time of the event in seconds on the clock of the call's runtime (`time.monotonic`, or virtual time).

    records    one frozen record for each kind of event
    channel    listeners, and the channel that takes a pipeline's events to them
    counters   the counters of the pipelines of one name, which exporters of metrics read
"""

from resilient.events.channel import Channel, Listener, listen
from resilient.events.records import (
    AbandonedEnded,
    AnyEvent,
    AttemptFailed,
    AttemptReturned,
    AttemptStarted,
    BudgetExhausted,
    CallEnded,
    CallRejected,
    CallTimedOut,
    ChaosHalted,
    CircuitChanged,
    Event,
    FaultInjected,
    FellBack,
    GaveUp,
    HedgeWon,
    Hedging,
    LimitChanged,
    Queued,
    Retrying,
    Waited,
)

__all__ = [
    "AbandonedEnded",
    "AnyEvent",
    "AttemptFailed",
    "AttemptReturned",
    "AttemptStarted",
    "BudgetExhausted",
    "CallEnded",
    "CallRejected",
    "CallTimedOut",
    "Channel",
    "ChaosHalted",
    "CircuitChanged",
    "Event",
    "FaultInjected",
    "FellBack",
    "GaveUp",
    "HedgeWon",
    "Hedging",
    "LimitChanged",
    "Listener",
    "Queued",
    "Retrying",
    "Waited",
    "listen",
]
