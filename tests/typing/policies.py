# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""What type checkers make of the policies' options, and of policies that users write themselves."""

from collections.abc import Coroutine
from typing import Any, assert_type

import pybreaker
import tenacity

from resilient import Bulkhead, CircuitBreaker, FullJitter, Pipeline, Retry, Timeout
from resilient.call import Call
from resilient.policy import Gate, Layer, Scope, Ticket, Wrap

# -- Timeout --------------------------------------------------------------------------------------------------------

Timeout(2)
Timeout(0.5, thread=True, name="each")
Timeout()  # type: ignore[call-arg]
Timeout("2s")  # type: ignore[arg-type]
Timeout(None)  # type: ignore[arg-type]


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
Bulkhead(50, queue=100, queue_timeout=1.5)
Bulkhead(50, 100)  # type: ignore[call-arg]
Bulkhead(max_concurrent="50")  # type: ignore[arg-type]


# -- one's own ------------------------------------------------------------------------------------------------------


class Tracing(Wrap):
    async def run(self, call: Call, inner: Layer, scope: Scope) -> Any:
        print(scope.name, call.attempt)
        return await inner(call)


class Passing(Wrap):
    def run(self, call: Call, inner: Layer, scope: Scope) -> Coroutine[Any, Any, Any]:
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
