"""Plain functions: a cooperative deadline, a thread of their own on demand, and nothing that suspends."""

from __future__ import annotations

import contextvars
import inspect
import threading
import time
import types
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import Any

import pytest
import tenacity

from resilient import Bulkhead, BulkheadFull, CircuitBreaker, Pipeline, Retry, TimedOut, Timeout
from resilient.events import CallTimedOut

NAME = "resilient-background"


@types.coroutine
def suspend() -> Generator[Any, Any, Any]:
    """Await something that suspends the coroutine."""
    return (yield)


def workers() -> list[threading.Thread]:
    """The threads of `thread=True` that still run."""
    return [thread for thread in threading.enumerate() if thread.name == NAME]


def join_workers() -> None:
    """Wait until the worker threads of Timeouts have ended."""
    for thread in workers():
        thread.join(5)


class Blocking:
    """A function that blocks until `open` is set, and sets `begun` when it begins."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.open = threading.Event()
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        self.begun.set()
        assert self.open.wait(5)
        return "late"


@pytest.fixture
def blocking() -> Iterator[Blocking]:
    """A blocking function, which is released when the test ends."""
    made = Blocking()
    yield made
    made.open.set()
    join_workers()


def in_thread(fn: Callable[[], object]) -> threading.Thread:
    """Start a function in a new thread."""
    thread = threading.Thread(target=fn)
    thread.start()
    return thread


# -- the cooperative deadline ------------------------------------------------------------------------------------


def test_timeout_runs_the_function_in_its_callers_thread() -> None:
    """Without `thread=True` there is no other thread."""
    assert Timeout(1)(threading.get_ident)() == threading.get_ident()


def test_timeout_late_result_is_returned() -> None:
    """A function that has begun is not interrupted, and what it brings is kept."""

    @Timeout(0.001)
    def slow() -> int:
        time.sleep(0.002)
        return 7

    assert slow() == 7


def test_timeout_late_error_is_the_functions_own() -> None:
    """A late error of a function is raised as it is, not turned into a `TimedOut`."""
    error = OSError()

    @Timeout(0.001)
    def slow() -> None:
        time.sleep(0.002)
        raise error

    with pytest.raises(OSError) as caught:
        slow()
    assert caught.value is error


def test_deadline_stops_further_attempts() -> None:
    """A failure that comes after it is the last one."""
    calls = []

    @Pipeline(Timeout(0.01), Retry(attempts=100, wait=0))
    def failing() -> None:
        calls.append(1)
        time.sleep(0.011)
        raise OSError

    with pytest.raises(OSError):
        failing()
    assert len(calls) == 1


@pytest.mark.filterwarnings("ignore::resilient.PipelineWarning")
def test_deadline_lets_no_backoff_start_that_outlives_it() -> None:
    """The last real error comes back at once."""
    begin = time.monotonic()

    @Pipeline(Timeout(60), Retry(attempts=3, wait=tenacity.wait_fixed(90)))
    def failing() -> None:
        raise OSError

    with pytest.raises(OSError):
        failing()
    assert time.monotonic() - begin < 30


def test_deadline_ends_a_wait_in_a_queue(blocking: Blocking) -> None:
    """With `TimedOut`, which is no evidence: the dependency was never asked."""
    bulkhead = Bulkhead(1, queue=1)
    holder = in_thread(bulkhead(blocking))
    assert blocking.begun.wait(5)

    with pytest.raises(TimedOut) as caught:
        Pipeline(Timeout(0.03), bulkhead).call(blocking)

    assert (caught.value.seconds, caught.value.evidence) == (0.03, False)
    assert blocking.calls == 1
    assert bulkhead.snapshot()["queued"] == 0
    blocking.open.set()
    holder.join()
    assert bulkhead.snapshot()["in_use"] == 0


def test_deadline_later_than_the_queue_timeout_leaves_that_to_it(blocking: Blocking) -> None:
    """A queue timeout that comes before the deadline ends the wait."""
    bulkhead = Bulkhead(1, queue=1, queue_timeout=0.02)
    holder = in_thread(bulkhead(blocking))
    assert blocking.begun.wait(5)

    with pytest.raises(BulkheadFull, match=r"no permit within 0\.02 s"):
        Pipeline(Timeout(10), bulkhead).call(blocking)

    blocking.open.set()
    holder.join()


@pytest.mark.parametrize(
    ("outer", "inner", "expired"),
    [
        pytest.param(0.02, 30, "outer", id="outer-shorter"),
        pytest.param(30, 0.02, "inner", id="inner-shorter"),
        pytest.param(0.02, 0.02, "outer", id="same"),
    ],
)
@pytest.mark.filterwarnings("ignore::resilient.PipelineWarning")
def test_deadline_expiry_belongs_to_the_timeout_whose_it_was(
    blocking: Blocking, outer: float, inner: float, expired: str
) -> None:
    """Of two that are nested, the nearer one; and of two equal ones the outer, which began first."""
    bulkhead = Bulkhead(1, queue=1)
    holder = in_thread(bulkhead(blocking))
    assert blocking.begun.wait(5)

    with pytest.raises(TimedOut) as caught:
        Pipeline(Timeout(outer, name="outer"), Timeout(inner, name="inner"), bulkhead).call(blocking)

    assert caught.value.policy == expired
    blocking.open.set()
    holder.join()


def test_deadline_without_end_is_possible() -> None:
    """A limit of more centuries than a lock can wait for is as good as none."""
    bulkhead = Bulkhead(1, queue=1)
    begun, queued = threading.Event(), threading.Event()
    pipeline = Pipeline(Timeout(1e300), bulkhead)
    pipeline.listen(lambda event: queued.set() if type(event).__name__ == "Queued" else None)

    @pipeline
    def first() -> None:
        begun.set()
        assert queued.wait(5)

    holder = in_thread(first)
    assert begun.wait(5)
    assert pipeline.call(lambda: 7) == 7
    holder.join()


# -- thread=True -------------------------------------------------------------------------------------------------


def test_thread_stops_waiting_at_the_limit(blocking: Blocking) -> None:
    """The caller goes on while the function still runs."""
    with pytest.raises(TimedOut) as caught:
        Timeout(0.02, thread=True)(blocking)()

    assert (caught.value.seconds, caught.value.evidence) == (0.02, True)
    assert not blocking.open.is_set()
    assert len(workers()) == 1


def test_thread_expiry_is_told_once(blocking: Blocking) -> None:
    """One event, although the function ends later."""
    told: list[CallTimedOut] = []
    pipeline = Pipeline(Timeout(0.02, thread=True))
    pipeline.listen(lambda event: told.append(event) if isinstance(event, CallTimedOut) else None)

    with pytest.raises(TimedOut):
        pipeline.call(blocking)
    blocking.open.set()
    join_workers()

    assert [event.seconds for event in told] == [0.02]


def test_thread_permit_is_held_until_the_function_ends(blocking: Blocking) -> None:
    """A function that runs on after its timeout holds its permit until it ends."""
    bulkhead = Bulkhead(1)
    pipeline = Pipeline(Timeout(0.02, thread=True), bulkhead)

    with pytest.raises(TimedOut):
        pipeline.call(blocking)
    assert bulkhead.snapshot()["in_use"] == 1
    with pytest.raises(BulkheadFull):
        pipeline.call(blocking)

    blocking.open.set()
    join_workers()
    assert bulkhead.snapshot()["in_use"] == 0
    assert pipeline.call(lambda: 7) == 7


def test_thread_breaker_inside_learns_when_the_function_ends(blocking: Blocking) -> None:
    """A result that came after the limit is a failure."""
    breaker = CircuitBreaker(None, fail_max=1)

    with pytest.raises(TimedOut):
        Pipeline(Timeout(0.02, thread=True), breaker).call(blocking)
    assert breaker.snapshot()["state"] == "closed"
    assert blocking.begun.wait(5)
    time.sleep(0.02)  # so that the call is past its limit by the breaker's clock too, which began a little later
    blocking.open.set()
    join_workers()

    assert breaker.snapshot()["state"] == "open"


def test_thread_breaker_outside_learns_at_the_limit(blocking: Blocking) -> None:
    """A breaker outside learns of the timeout at the limit, not at the end of the function."""
    breaker = CircuitBreaker(None, fail_max=1)

    with pytest.raises(TimedOut):
        Pipeline(breaker, Timeout(0.02, thread=True)).call(blocking)

    assert breaker.snapshot()["state"] == "open"


def test_thread_result_comes_back() -> None:
    """The result of the thread is returned, and the thread has ended."""

    @Timeout(5, thread=True)
    def where(a: int, *, b: int) -> tuple[int, str]:
        return a + b, threading.current_thread().name

    assert where(3, b=4) == (7, NAME)
    join_workers()


@pytest.mark.parametrize("error", [OSError(), TimeoutError(), KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_thread_error_comes_back_itself(error: BaseException) -> None:
    """An error in the thread is raised as the same object, also if it is no `Exception`."""

    @Timeout(5, thread=True)
    def failing() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        failing()
    assert caught.value is error


def test_thread_context_is_the_callers() -> None:
    """The function sees the caller's context variables; what it sets is set when its result is taken."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    variable.set("caller")

    @Timeout(5, thread=True)
    def look() -> str:
        seen = variable.get()
        variable.set("function")
        return seen

    assert look() == "caller"
    assert variable.get() == "function"


def test_thread_deadline_of_an_outer_timeout_counts(blocking: Blocking) -> None:
    """The wait ends at the nearer limit, and as that Timeout's."""
    pipeline = Pipeline(Timeout(5, name="total"), Retry(attempts=1), Timeout(0.04, thread=True, name="each"))
    with pytest.raises(TimedOut) as caught:
        pipeline.call(blocking)
    assert caught.value.policy == "each"

    with pytest.warns(match="the inner one never acts"):
        pipeline = Pipeline(Timeout(0.02, name="total"), Timeout(30, thread=True, name="each"))
    with pytest.raises(TimedOut) as caught:
        pipeline.call(blocking)
    assert caught.value.policy == "total"


def test_thread_total_ends_with_the_last_failure_as_cause(blocking: Blocking) -> None:
    """The TimedOut of a total has the last failure as its cause, though that happened in the other thread."""
    failure = OSError()
    steps: list[Callable[[], Any]] = [blocking]

    @Pipeline(Timeout(0.1, thread=True), Retry(attempts=2, wait=0))
    def service() -> Any:
        if not blocking.calls and len(steps) == 1:
            steps.append(blocking)
            raise failure
        return blocking()

    with pytest.raises(TimedOut) as caught:
        service()
    assert caught.value.__cause__ is failure


def test_thread_attempts_each_have_one() -> None:
    """Retry outside: the second attempt begins although the first still runs."""
    gates = [Blocking(), Blocking()]
    number = iter((0, 1, 2))

    @Pipeline(Retry(attempts=3, wait=0), Timeout(0.1, thread=True))
    def service() -> Any:
        at = next(number)
        return gates[at]() if at < 2 else 7

    assert service() == 7
    assert [blocking.calls for blocking in gates] == [1, 1]
    for blocking in gates:
        blocking.open.set()
    join_workers()


def test_thread_limit_without_end_is_possible() -> None:
    """More centuries than a thread can be waited for."""
    assert Timeout(1e300, thread=True)(lambda: 7)() == 7


@pytest.mark.every_loop
async def test_thread_option_has_no_effect_on_async_def() -> None:
    """With thread=True an async function still runs where it is awaited."""
    here = threading.get_ident()

    @Timeout(5, thread=True)
    async def where() -> int:
        return threading.get_ident()

    assert await where() == here


def test_thread_timeouts_of_one_instance_from_many_threads() -> None:
    """Each caller gets its own result or its own expiry."""
    release = threading.Event()
    timeout = Timeout(0.2, thread=True)
    results: dict[int, Any] = {}

    @timeout
    def service(number: int) -> int:
        if number % 2:
            release.wait(5)
        return number

    def client(number: int) -> None:
        try:
            results[number] = service(number)
        except TimedOut as error:
            results[number] = type(error)

    clients = [in_thread(lambda number=number: client(number)) for number in range(8)]
    for thread in clients:
        thread.join()
    release.set()
    join_workers()
    assert results == {number: TimedOut if number % 2 else number for number in range(8)}


# -- what a coroutine would swallow ------------------------------------------------------------------------------

PIPELINES = [
    pytest.param(lambda: Pipeline(Timeout(5)), id="timeout"),
    pytest.param(lambda: Pipeline(Timeout(5, thread=True)), id="thread"),
    pytest.param(lambda: Pipeline(Retry(attempts=2, wait=0)), id="retry"),
    pytest.param(lambda: Pipeline(Bulkhead(1), CircuitBreaker()), id="gates"),
    pytest.param(
        lambda: Pipeline(Timeout(9), Retry(attempts=2, wait=0), Bulkhead(1), CircuitBreaker(), Timeout(1)), id="stack"
    ),
]


@pytest.mark.parametrize("make", PIPELINES)
def test_stop_iteration_of_the_function_passes(make: Callable[[], Pipeline]) -> None:
    """Python turns one that leaves a coroutine into a `RuntimeError`; the caller gets the original."""
    error = StopIteration(3)

    @make()
    def exhausted() -> None:
        raise error

    with pytest.raises(StopIteration) as caught:
        exhausted()
    assert caught.value is error


@pytest.mark.parametrize("make", PIPELINES[:1] + PIPELINES[2:])
def test_stop_iteration_of_a_block_passes(make: Callable[[], Pipeline]) -> None:
    """A StopIteration that a block raises passes unchanged."""
    error = StopIteration(3)

    with pytest.raises(StopIteration) as caught:
        for attempt in make().attempts():
            with attempt:
                raise error
    assert caught.value is error


def test_stop_iteration_of_a_block_is_repeated() -> None:
    """A StopIteration that a block raises is a failure of the block, and repeated, as that of a function is."""
    numbers = []
    for attempt in Pipeline(Retry(attempts=3, wait=0)).attempts():
        with attempt:
            numbers.append(attempt.number)
            if attempt.number < 3:
                raise StopIteration
    assert numbers == [1, 2, 3]


# -- what must not be awaited ------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", PIPELINES)
def test_def_that_returns_a_coroutine_is_an_error_and_the_coroutine_closed(make: Callable[[], Pipeline]) -> None:
    """A plain function that returns a coroutine, which would run unguarded, is an error; the coroutine is closed
    without a warning."""
    made: list[Coroutine[Any, Any, None]] = []

    async def hidden() -> None:
        pass

    @make()
    def fetch() -> Any:
        made.append(hidden())
        return made[-1]

    with pytest.raises(TypeError, match=r"fetch is a plain def but returned coroutine.*make it an async def"):
        fetch()
    assert [inspect.getcoroutinestate(each) for each in made] == [inspect.CORO_CLOSED]


def test_def_that_returns_another_awaitable_is_an_error() -> None:
    """A plain function that returns any object with `__await__` is refused."""

    class Later:
        def __await__(self) -> Iterator[Any]:
            return iter(())

        def later(self) -> Later:
            return self

    with pytest.raises(TypeError, match="returned Later"):
        Timeout(1)(Later().later)()


@pytest.mark.parametrize("thread", [False, True])
def test_strategy_that_really_awaits_is_refused(thread: bool) -> None:
    """In a sentence that says what to do, and with every permit given back."""
    bulkhead = Bulkhead(1)

    async def wait(state: Any) -> float:
        await suspend()
        return 0.0

    def strategy(state: Any) -> Any:  # of which one cannot see that it is async
        return wait(state)

    @Pipeline(Timeout(5, thread=thread), bulkhead, Retry(attempts=2, wait=strategy))
    def failing() -> None:
        raise OSError

    with pytest.raises(RuntimeError, match="awaited something that suspends; decorate an async def instead"):
        failing()
    assert bulkhead.snapshot()["in_use"] == 0


def test_strategy_that_is_async_but_never_waits_is_fine() -> None:
    """A coroutine that only computes, from a function of which one cannot see that it makes one."""
    results = iter((OSError(), 7))

    async def wait(state: Any) -> float:
        return 0.0

    def strategy(state: Any) -> Any:
        return wait(state)

    @Retry(attempts=2, wait=strategy)
    def service() -> Any:
        step = next(results)
        if isinstance(step, Exception):
            raise step
        return step

    assert service() == 7
