# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""What type checkers make of the policies' options, and of policies that users write themselves."""

from collections.abc import Coroutine
from typing import Any, assert_type

import pybreaker
import tenacity

from resilient import (
    Budget,
    Bulkhead,
    Chaos,
    CircuitBreaker,
    Fallback,
    FullJitter,
    Hedge,
    Pipeline,
    RateLimit,
    Retry,
    Timeout,
)
from resilient.core.call import Call
from resilient.core.context import PipelineContext
from resilient.core.gate import Gate, Ticket
from resilient.core.layer import Layer
from resilient.core.policy import Wrap
from resilient.faults import Crash, Errors, Latency, Results

# -- Timeout --------------------------------------------------------------------------------------------------------

Timeout(2)
Timeout(0.5, thread=True, name="each")
Timeout()  # type: ignore[call-arg]
Timeout("2s")  # type: ignore[arg-type]
Timeout(None)  # type: ignore[arg-type]
Timeout(2, abandon=True, max_abandoned=10)
Timeout(2, abandon="yes")  # type: ignore[arg-type]
Timeout(2, True)  # type: ignore[call-arg]


# -- Retry ----------------------------------------------------------------------------------------------------------


def is_transient(error: Exception) -> bool:
    return isinstance(error, OSError)


def before_sleep(state: tenacity.RetryCallState) -> None:
    print(state.attempt_number)


async def async_hook(state: tenacity.RetryCallState) -> None:
    print(state.attempt_number)


Retry(3, wait=0.5, on=OSError)
Retry(attempts=3, wait=FullJitter(base=0.1, cap=5), on=(OSError, KeyError))
Retry(on=is_transient, max_retry_after=30)
Retry(
    stop=tenacity.stop_after_delay(5) | tenacity.stop_after_attempt(5),
    wait=tenacity.wait_exponential(max=5) + tenacity.wait_random(0, 1),
    on=tenacity.retry_if_exception_type(OSError) | tenacity.retry_if_result(lambda result: result is None),
    before_sleep=before_sleep,
    after=async_hook,
)
Retry(attempts="3")  # type: ignore[arg-type]
Retry(retries=3)  # type: ignore[call-arg]
Retry(on="OSError")  # type: ignore[arg-type]
Retry(wait="1s")  # type: ignore[arg-type]
Retry(before=3)  # type: ignore[arg-type]
Retry(3, budget=Budget(), nested="once", shadow=True)
Retry(nested="twice")  # type: ignore[arg-type]
Retry(budget=0.1)  # type: ignore[arg-type]
Retry(budget=Budget)  # type: ignore[arg-type]


# -- Budget ---------------------------------------------------------------------------------------------------------

budget = Budget(0.1, reserve=1, cap=10, ttl=10)
assert_type(budget.spend(1.0), bool)
assert_type(budget.balance(1.0), float)
assert_type(budget.snapshot(), dict[str, Any])
assert_type(budget.earn(), None)
Budget("10%")  # type: ignore[arg-type]
Budget(0.1, 1)  # type: ignore[call-arg]
budget.spend()  # type: ignore[call-arg]


# -- Hedge ----------------------------------------------------------------------------------------------------------

Hedge(0.05)
Hedge([0.05, 0.2], budget=budget, name="haste")
Hedge((0.05, 0.2), inline=True)
Hedge(0.05, copies=3, thread=True, max_stragglers=10, shadow=True)
Hedge()  # type: ignore[call-arg]
Hedge("50ms")  # type: ignore[arg-type]
Hedge(["50ms"])  # type: ignore[list-item]
Hedge(0.05, copies="2")  # type: ignore[arg-type]
Hedge(0.05, 2)  # type: ignore[call-arg]


# -- RateLimit ------------------------------------------------------------------------------------------------------

RateLimit(100)
RateLimit(0.5, per=60, burst=5, max_wait=1.5, shadow=True, name="quota")
RateLimit()  # type: ignore[call-arg]
RateLimit("100/s")  # type: ignore[arg-type]
RateLimit(100, burst=0.5)  # type: ignore[arg-type]
RateLimit(100, 60)  # type: ignore[call-arg]


# -- Chaos ----------------------------------------------------------------------------------------------------------


def region_of(region: str, *rest: object) -> str:
    return region


Chaos(Latency(high=3), Errors(share=0.1, error=OSError), Crash(targets=2), enabled=True, seed=1)
Chaos(Errors(error=lambda message: ExceptionGroup(message, [OSError()]), retry_after=5), enabled=True)
Chaos(Errors(targets=("eu", 3)), by=region_of, enabled=lambda: False, rate=0.5)
Chaos(Results(call=lambda *args: args), halt_rate=None, halt_calls=10, name="game day")
Chaos("errors")  # type: ignore[arg-type]
Chaos(Errors(), enabled="yes")  # type: ignore[arg-type]
Chaos(Errors(), by="region")  # type: ignore[arg-type]
Errors(0.1)  # type: ignore[call-arg]
Errors(error=lambda message: message)  # type: ignore[arg-type, return-value]
Latency()  # type: ignore[call-arg]
assert_type(Chaos(Errors()).halted, str | None)


# -- Fallback -------------------------------------------------------------------------------------------------------


def stale(error: Exception | None, key: str) -> bytes:
    return b""


async def stale_async(error: Exception | None, key: str) -> bytes:
    return b""


Fallback(None)
Fallback([], on=OSError)
Fallback(call=stale, on=(OSError, KeyError))
Fallback(call=stale_async, on=is_transient, name="stale")
Fallback(call="stale")  # type: ignore[arg-type]
Fallback(b"", on="OSError")  # type: ignore[arg-type]
Fallback(b"", on=5)  # type: ignore[arg-type]
Fallback(b"", stale)  # type: ignore[call-arg]


@Fallback(call=stale_async)
async def price(key: str) -> bytes:
    return b""


async def ask() -> None:
    assert_type(await price("a"), bytes)
    await price(5)  # type: ignore[arg-type]


# -- CircuitBreaker -------------------------------------------------------------------------------------------------

breaker = CircuitBreaker(
    0.5,
    slow=1.0,
    slow_rate=0.8,
    window_calls=100,
    listeners=[pybreaker.CircuitBreakerListener()],
    state_storage=pybreaker.CircuitMemoryStorage("closed"),
)
assert_type(breaker.fail_max, int | None)
assert_type(breaker.fail_counter, int)
assert_type(breaker.current_state, str)
assert_type(breaker.snapshot(), dict[str, Any])
CircuitBreaker(fail_max="5")  # type: ignore[arg-type]
CircuitBreaker(reset_timeout=5)  # type: ignore[call-arg]
CircuitBreaker(listeners=[print])  # type: ignore[list-item]


# -- Bulkhead -------------------------------------------------------------------------------------------------------

Bulkhead()
Bulkhead(50, queue=100, queue_timeout=1.5, shadow=True)
Bulkhead(50, 100)  # type: ignore[call-arg]
Bulkhead(max_concurrent="50")  # type: ignore[arg-type]


# -- one's own ------------------------------------------------------------------------------------------------------


class Tracing(Wrap):
    async def run(self, call: Call, inner: Layer, context: PipelineContext) -> Any:
        print(context.name, call.attempt)
        return await inner(call)


class Passing(Wrap):
    def run(self, call: Call, inner: Layer, context: PipelineContext) -> Coroutine[Any, Any, Any]:
        return inner(call)


class Quota(Gate):
    def admit(self, call: Call) -> Ticket | None:
        return 1

    def release(self, ticket: Ticket) -> None: ...


@Pipeline(Tracing(), Passing(), Quota("quota"))
async def fetch(key: str) -> bytes:
    return b""


async def use() -> None:
    assert_type(await fetch("a"), bytes)
