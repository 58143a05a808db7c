"""What tests of the log share: a logger whose records are kept, and one event of each kind with its line."""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from resilient.events import (
    AbandonedEnded,
    AttemptFailed,
    AttemptStarted,
    BudgetExhausted,
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

__all__ = ["EXPECTED", "LINES", "SECRET", "Records", "records", "refused", "strange"]


class Records(logging.Handler):
    """Keeps the records of a logger of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.logger = logging.getLogger("tests.observe")
        self.logger.propagate = False
        self.logger.setLevel(logging.DEBUG)
        self.logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def lines(self) -> list[str]:
        return [f"{record.levelname} {record.getMessage()}" for record in self.records]


@pytest.fixture
def records() -> Iterator[Records]:
    records = Records()
    yield records
    for handler in list(records.logger.handlers):
        records.logger.removeHandler(handler)


def refused(at: float, *, pipeline: str = "users", policy: str = "circuit") -> CallRejected:
    return CallRejected(pipeline, at, policy, "circuit is open", 5.0)


SECRET = OSError("password=hunter2")

LINES: list[tuple[Event, str]] = [
    (AttemptStarted("users", 0, 2, "get_user"), "DEBUG users: attempt 2 of get_user"),
    (
        AttemptFailed("users", 0, 2, "get_user", SECRET, 0.5),
        "DEBUG users: attempt 2 of get_user failed after 0.5 s with OSError",
    ),
    (
        Retrying("users", 0, "Retry", 2, 0.25, SECRET),
        "INFO users: Retry: attempt 2 failed with OSError, the next follows in 0.25 s",
    ),
    (
        Retrying("users", 0, "Retry", 1, 0.25, None),
        "INFO users: Retry: attempt 1 failed, the next follows in 0.25 s",
    ),
    (
        Retrying("users", 0, "Retry", 1, 0.25, SECRET, shadow=True),
        "INFO users: Retry: attempt 1 failed with OSError, the next would have followed in 0.25 s",
    ),
    (Hedging("users", 0, "Hedge", 2, "delay"), "INFO users: Hedge: copy 2 of a call begins (delay)"),
    (
        Hedging("users", 0, "Hedge", 2, "failure", shadow=True),
        "INFO users: Hedge: copy 2 of a call would have begun (failure)",
    ),
    (
        FaultInjected("users", 0, "Chaos", "errors", "5% ConnectionError", 0.0),
        "INFO users: Chaos: injected a fault: 5% ConnectionError",
    ),
    (
        ChaosHalted("users", 0, "Chaos", "11 of the last 40 calls failed, which is more than 10% of 100"),
        "WARNING users: Chaos: halted: 11 of the last 40 calls failed, which is more than 10% of 100",
    ),
    (HedgeWon("users", 0, "Hedge", 2, 3), "DEBUG users: Hedge: copy 2 of 3 won"),
    (
        BudgetExhausted("users", 0, "Retry", "retry"),
        "WARNING users: Retry: no retry: the budget for extra requests is exhausted",
    ),
    (
        FellBack("users", 0, "Fallback", SECRET),
        "WARNING users: Fallback: answered in place of a call that failed with OSError",
    ),
    (FellBack("users", 0, "Fallback", None), "WARNING users: Fallback: answered in place of a call that failed"),
    (
        AbandonedEnded("users", 0, "Timeout", SECRET, 2.5),
        "WARNING users: Timeout: abandoned work ended after 2.5 s with OSError",
    ),
    (AbandonedEnded("users", 0, "Timeout", None, 2.5), "INFO users: Timeout: abandoned work ended after 2.5 s"),
    (Waited("users", 0, "Retry", "backoff", 0.25), "INFO users: Retry: a call waited 0.25 s (backoff)"),
    (Queued("users", 0, "Bulkhead", 3), "INFO users: Bulkhead: a call waits as number 3 in the queue"),
    (
        GaveUp("users", 0, "Retry", 3, "attempts spent", SECRET),
        "WARNING users: Retry: gave up after 3 attempts with OSError: attempts spent",
    ),
    (
        GaveUp("users", 0, "Retry", 1, "attempts spent", None),
        "WARNING users: Retry: gave up after 1 attempt: attempts spent",
    ),
    (refused(0), "WARNING users: circuit: refused a call: circuit is open"),
    (
        CallRejected("users", 0, "circuit", "circuit is open", 5.0, shadow=True),
        "INFO users: circuit: would have refused a call: circuit is open",
    ),
    (CallTimedOut("users", 0, "Timeout", 2.0), "WARNING users: Timeout: a call timed out after 2 s"),
    (
        LimitChanged("users", 0, "limit", 20, 24, "600 ended well"),
        "DEBUG users: limit: limit 20 -> 24: 600 ended well",
    ),
    (
        CircuitChanged("users", 0, "circuit", "closed", "open", "5 failures in a row"),
        "WARNING users: circuit: closed -> open: 5 failures in a row",
    ),
    (
        CircuitChanged("users", 0, "circuit", "closed", "isolated", "by hand"),
        "WARNING users: circuit: closed -> isolated: by hand",
    ),
    (
        CircuitChanged("users", 0, "circuit", "open", "half-open", "the break is over"),
        "INFO users: circuit: open -> half-open: the break is over",
    ),
    (
        CircuitChanged("", 0, "circuit", "half-open", "closed", "the probes succeeded"),
        "INFO circuit: half-open -> closed: the probes succeeded",
    ),
]


@pytest.fixture
def strange() -> Iterator[Event]:
    @dataclass(frozen=True)
    class Ejected(Event):
        name: str
        event: str
        suppressed: int
        level: str
        seconds: float
        why: object
        cause: Exception

    yield Ejected("users", 0, "a", "b", 3, "c", math.inf, ("x", "y"), SECRET)
    del Ejected
    gc.collect()  # or `Event.__subclasses__()` of other tests has it


EXPECTED = {
    "event_name": "a",
    "event_event": "b",
    "event_suppressed": 3,
    "event_level": "c",
    "seconds": "inf",
    "why": "('x', 'y')",
    "cause": "OSError",
}
