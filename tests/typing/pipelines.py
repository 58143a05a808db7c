# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""What type checkers make of pipelines: building, varying, switching, closing, watching."""

import logging
from collections.abc import Callable
from typing import Any, assert_type

from resilient import (
    Budget,
    Bulkhead,
    CircuitBreaker,
    CircuitOpen,
    Classifier,
    CurrentCall,
    Pipeline,
    Rejected,
    Retry,
    TimedOut,
    Timeout,
    Verdict,
    current_call,
    deadline,
    events,
    registry,
    remaining,
    standard,
    standard_hedged,
    switch,
)
from resilient.observe.logging import log_events

users = Pipeline(Timeout(10), Retry(), Pipeline(Bulkhead(5), name="inner"), name="users", strict=True)


# -- building -------------------------------------------------------------------------------------------------------

Pipeline(Retry, Timeout(2))  # type: ignore[arg-type]
Pipeline("retry")  # type: ignore[arg-type]
Pipeline(Retry(), name=7)  # type: ignore[arg-type]
Pipeline(Retry(), retries=3)  # type: ignore[call-arg]
Pipeline(Retry(), classify=OSError)  # type: ignore[arg-type]

assert_type(users.findings[0].what, str)
assert_type(users.describe(), str)
assert_type(users.snapshot(), dict[str, Any])


# -- the standard ones ----------------------------------------------------------------------------------------------

assert_type(standard(), Pipeline)
assert_type(standard("users", total=20, attempt=5, attempts=2, max_concurrent=100, budget=Budget()), Pipeline)
assert_type(standard_hedged("users", delay=0.2, copies=3, inline=True, classify=Classifier()), Pipeline)

standard(5)  # type: ignore[arg-type]
standard("users", 30)  # type: ignore[call-arg]
standard(delay=0.2)  # type: ignore[call-arg]
standard_hedged(delay="200ms")  # type: ignore[arg-type]
standard_hedged(budget=0.1)  # type: ignore[arg-type]


@standard("search")
def search(text: str) -> list[str]:
    call = current_call()
    assert_type(call, CurrentCall | None)
    if call is not None:
        assert_type(call.attempt, int)
        assert_type(call.id, str)
        assert_type(call.pipeline, str)
        assert_type(call.remaining, float | None)
        assert_type(call.repeats, bool)
        assert_type(call.outer, CurrentCall | None)
        call.attempt = 2  # type: ignore[misc]
    print(current_call().id)  # type: ignore[union-attr]
    return []


assert_type(search("a"), list[str])
search(5)  # type: ignore[arg-type]


# -- deadlines ------------------------------------------------------------------------------------------------------

with deadline(2), deadline(0.5):
    assert_type(remaining(), float | None)

deadline("2s")  # type: ignore[arg-type]
deadline()  # type: ignore[call-arg]
with deadline(2) as nothing:
    assert_type(nothing, None)


# -- varying --------------------------------------------------------------------------------------------------------

assert_type(users.with_(Retry(attempts=2), name="search"), Pipeline)
assert_type(users.with_(without=(Timeout, Bulkhead)), Pipeline)

users.with_(Retry)  # type: ignore[arg-type]
users.with_(without=(Timeout(2),))  # type: ignore[arg-type]
users.with_(attempts=2)  # type: ignore[call-arg]


# -- switching and closing ------------------------------------------------------------------------------------------

with switch("instant"), users.switch("off"):
    users.switch(None)
switch("of")  # type: ignore[arg-type]
users.switch(True)  # type: ignore[arg-type]


async def close() -> None:
    assert_type(await users.aclose(), None)
    assert_type(users.close(), None)


# -- watching -------------------------------------------------------------------------------------------------------


def on_event(event: events.Event) -> None:
    match event:
        case events.CircuitChanged(policy=policy, new="open"):
            assert_type(policy, str)
        case events.GaveUp():
            assert_type(event.error, BaseException | None)
            event.attempts = 3  # type: ignore[misc]
        case events.Hedging(copy=copy, shadow=False):
            assert_type(copy, int)
            assert_type(event.reason, str)
        case events.HedgeWon():
            assert_type(event.copies, int)
        case events.BudgetExhausted():
            assert_type(event.what, str)
        case events.FellBack():
            assert_type(event.error, BaseException | None)
        case events.AbandonedEnded():
            assert_type(event.elapsed, float)
        case events.CallRejected():
            assert_type(event.retry_after, float | None)
            print(event.error)  # type: ignore[attr-defined]
        case _:
            assert_type(event.at, float)


assert_type(users.listen(on_event), Callable[[], None])
assert_type(events.listen(on_event), Callable[[], None])
assert_type(users.listen(on_event, events.CallEnded, events.CallRejected), Callable[[], None])
assert_type(log_events(), Callable[[], None])
assert_type(log_events(users, logger=logging.getLogger("mine"), interval=1), Callable[[], None])
assert_type(registry.pipeline("users"), Pipeline)
assert_type(registry.snapshots(), dict[str, dict[str, Any]])

users.listen(None)  # type: ignore[arg-type]
users.listen(on_event, "CallEnded")  # type: ignore[arg-type]
log_events("users")  # type: ignore[arg-type]
registry.pipeline(users)  # type: ignore[arg-type]


# -- judging --------------------------------------------------------------------------------------------------------


def is_transient(error: Exception) -> bool:
    return isinstance(error, OSError)


def judge(result: Any) -> bool | Verdict:
    return Verdict("failure", retryable=True, retry_after=1.0) if result is None else False


Classifier(failures=OSError, fatal=(PermissionError,), ignore=is_transient, results=judge)
assert_type(Classifier().error(OSError()), Verdict)
assert_type(Classifier().judges_results, bool)

Classifier(failures=5)  # type: ignore[arg-type]
Classifier(OSError)  # type: ignore[call-arg]
Classifier(results=is_transient(OSError()))  # type: ignore[arg-type]
Verdict("maybe")  # type: ignore[arg-type]


# -- handling -------------------------------------------------------------------------------------------------------


def handle(breaker: CircuitBreaker) -> None:
    try:
        users.call(print)
    except CircuitOpen as error:
        assert_type(error.retry_after, float | None)
        assert_type(error.policy, str)
    except Rejected as error:
        assert_type(error.pipeline, str)
    except TimedOut as error:
        assert_type(error.seconds, float | None)
        assert_type(error.evidence, bool)
        print(error.retry_after)  # type: ignore[attr-defined]
    if breaker.state == "isolated":
        breaker.close()
    breaker.state = "closed"  # type: ignore[misc]
