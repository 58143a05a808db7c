"""A program that forks inside a running event loop, with calls in flight and locks held by another thread.

`python tests/fork_program.py` prints a JSON object with what each check found in the child, for each way to fork: None
if nothing is wrong. Each policy has learnt something, and has a call in flight, when the process is forked.
"""

from __future__ import annotations

import asyncio
import gc
import json
import multiprocessing
import os
import threading
import traceback
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

from resilient import (
    AdaptiveLimit,
    Budget,
    Bulkhead,
    BulkheadFull,
    Chaos,
    CircuitBreaker,
    CircuitOpen,
    Classifier,
    Fallback,
    Hedge,
    Keyed,
    LimitExceeded,
    Pipeline,
    RateLimit,
    RateLimited,
    Retry,
    TimedOut,
    Timeout,
    current_call,
    current_priority,
    deadline,
    events,
    priority,
    quantile,
    remaining,
)
from resilient.faults import Errors

LONG = 3600.0
SHORT = 0.005
Check = Callable[[], Coroutine[Any, Any, None]]
checks: dict[str, tuple[list[Callable[[], Any]], Check]] = {}
"""For each check: the calls that are in flight at the fork, and a function that asserts what must hold in the child."""


def check(*calls: Callable[[], Any]) -> Callable[[Check], Check]:
    """Register a function as a check, with these calls in flight."""

    def add(function: Check) -> Check:
        checks[function.__name__] = list(calls), function
        return function

    return add


async def forever(*args: object) -> None:
    """A function that never answers."""
    await asyncio.get_running_loop().create_future()


async def quick(*args: object) -> int:
    """A function that answers at once."""
    return 7


async def failing(*args: object) -> int:
    """A function that fails at once."""
    raise OSError


async def raises(kind: type[BaseException], call: Coroutine[Any, Any, Any]) -> None:
    """Await a call that must raise an exception of this kind."""
    try:
        result = await call
    except kind:
        return
    raise AssertionError(f"{result!r} instead of {kind.__name__}")


timeout = Timeout(SHORT)


@check(Timeout(LONG)(forever))
async def timeout_fires() -> None:
    await raises(TimedOut, timeout(forever)())


@check()
async def timeout_in_threads_fires() -> None:
    wait = threading.Event()
    try:
        Timeout(SHORT, thread=True)(wait.wait)()
    except TimedOut:
        wait.set()
    else:
        raise AssertionError("it did not fire")


abandoning = Timeout(SHORT, abandon=True, max_abandoned=1)


@check(abandoning(forever))
async def abandoned_work_is_the_parents() -> None:
    assert abandoning.snapshot() == {"abandoned": 0}, abandoning.snapshot()
    await raises(TimedOut, abandoning(asyncio.sleep)(2 * SHORT))
    await asyncio.wait_for(abandoning._as_pipeline().aclose(), 5)


class Unclosed:
    """A result that fails the classifier and whose clean-up does not end."""

    async def aclose(self) -> None:
        """Never return."""
        await forever()


closing = Pipeline(
    Retry(attempts=2, wait=0), classify=Classifier(results=lambda result: isinstance(result, Unclosed)), name="closing"
)


def unclosed_at_first() -> Callable[[], Coroutine[Any, Any, object]]:
    """The first call returns an `Unclosed`, the next one never answers."""
    results = iter([Unclosed()])

    async def fetch() -> object:
        for result in results:
            return result
        await forever()

    return fetch


@check(closing(unclosed_at_first()))
async def results_that_a_retry_closes_are_the_parents() -> None:
    assert await closing(quick)() == 7
    await asyncio.wait_for(closing.aclose(), 5)


total = Pipeline(Timeout(LONG), Retry(attempts=2, wait=0), Timeout(SHORT), name="total")


@check(Pipeline(Timeout(LONG), Retry(attempts=2, wait=0))(forever))
async def total_and_deadline_fire() -> None:
    assert remaining() is None, remaining()
    assert current_call() is None, current_call()
    assert current_priority() == "normal"
    await raises(TimedOut, total(forever)())
    with deadline(SHORT):
        await raises(TimedOut, total(forever)())
        await raises(TimedOut, Bulkhead(1)(forever)())


budget = Budget(0.1, reserve=1)
retry = Retry(attempts=2, wait=0, budget=budget)


@check(retry(failing), retry(forever))
async def retry_spends_what_the_parent_had_left() -> None:
    await raises(OSError, retry(failing)())
    assert (budget.spent, budget.refused) == (1, 1), budget.snapshot()


bulkhead = Bulkhead(1, queue=1)


@check(bulkhead(forever), bulkhead(quick))
async def bulkhead_is_empty() -> None:
    assert bulkhead._at_rest, bulkhead.snapshot()
    holder, waiter = asyncio.create_task(bulkhead(forever)()), asyncio.create_task(bulkhead(quick)())
    await asyncio.sleep(SHORT)
    await raises(BulkheadFull, bulkhead(quick)())
    holder.cancel()
    assert await waiter == 7
    assert bulkhead._at_rest, bulkhead.snapshot()


adaptive = AdaptiveLimit(1, max_limit=1, queue=1)


@check(adaptive(forever), adaptive(quick))
async def adaptive_limit_is_empty() -> None:
    assert adaptive._at_rest, adaptive.snapshot()
    holder, waiter = asyncio.create_task(adaptive(forever)()), asyncio.create_task(adaptive(quick)())
    await asyncio.sleep(SHORT)
    await raises(LimitExceeded, adaptive(quick)())
    holder.cancel()
    assert await waiter == 7
    assert adaptive._at_rest, adaptive.snapshot()


rate = RateLimit(1, per=LONG, burst=2)
line = RateLimit(500, burst=1, max_wait=LONG)
slow_line = RateLimit(1, per=LONG, burst=1, max_wait=2 * LONG)


@check(rate(quick), line(quick), slow_line(quick), slow_line(quick))
async def rate_limit_has_the_tokens_and_no_line() -> None:
    assert rate.snapshot()["tokens"] == 1, rate.snapshot()
    await rate(quick)()
    await raises(RateLimited, rate(quick)())
    assert slow_line.snapshot()["queued"] == 0, slow_line.snapshot()
    await raises(RateLimited, Pipeline(Timeout(1), slow_line)(quick)())
    assert await asyncio.gather(*(line(quick)() for _ in range(3))) == [7] * 3


opened = CircuitBreaker(fail_max=1, failure_rate=None, break_duration=LONG, max_break=LONG)
probing = CircuitBreaker(fail_max=1, failure_rate=None, lease=LONG)
counting = CircuitBreaker(min_calls=100)


@check(opened(failing), counting(failing), counting(quick))
async def circuit_is_as_it_was() -> None:
    await raises(CircuitOpen, opened(quick)())
    await counting(quick)()
    state = counting.snapshot()
    assert (state["calls"], state["failures"]) == (3, 1), state


@check(lambda: (probing.half_open(), probing(forever)())[1])
async def probe_is_the_parents() -> None:
    assert probing.state == "half-open"
    assert probing.snapshot()["probes"] == 0, probing.snapshot()
    await probing(quick)()
    assert probing.state == "closed"


hedge = Hedge(SHORT, max_stragglers=1)
inline = Hedge(SHORT, inline=True)
observing = Hedge(quantile(0.9, warm_up=1, initial=SHORT, floor=SHORT), key=lambda *args: 1)


def slow_at_first() -> Callable[[], Coroutine[Any, Any, int]]:
    """The first call hangs, the others answer."""
    calls: list[int] = []

    async def fetch() -> int:
        calls.append(1)
        if len(calls) == 1:
            await forever()
        return 7

    return fetch


async def stubborn() -> int:
    """A function like `slow_at_first` that swallows its cancellation."""
    try:
        await forever()
    except asyncio.CancelledError:
        await forever()
    return 7


def sequential(functions: Iterator[Callable[[], Coroutine[Any, Any, int]]]) -> Any:
    """Await the calls one after the other."""

    async def fetch() -> int:
        return await next(functions)()

    return fetch


straggling = iter([stubborn, quick])


@check(hedge(sequential(straggling)), inline(forever), observing(quick))
async def hedge_begins_its_copies_and_has_no_stragglers() -> None:
    assert hedge.snapshot()["stragglers"] == 0, hedge.snapshot()
    for each in (hedge, inline, observing):
        assert await each(slow_at_first())() == 7
    await asyncio.wait_for(hedge._as_pipeline().aclose(), 5)


fallback = Fallback(8)


@check(fallback(forever))
async def fallback_answers() -> None:
    assert await fallback(failing)() == 8


keyed = Keyed(lambda: Bulkhead(1, queue=1), key=lambda key: key, max_keys=2)


@check(lambda: keyed(forever)("a"), lambda: keyed(quick)("a"), lambda: keyed(quick)("b"))
async def keyed_keeps_its_keys_and_no_calls() -> None:
    assert keyed._at_rest, keyed.snapshot()
    assert list(keyed.snapshot()["gates"]) == ["Bulkhead[b]", "Bulkhead[a]"], keyed.snapshot()
    assert [await keyed(quick)(key) for key in "abc"] == [7] * 3
    assert keyed.snapshot()["keys"] == 2, keyed.snapshot()


chaos = Chaos(Errors(), enabled=True, halt_rate=None)


@check(chaos(quick))
async def chaos_goes_on() -> None:
    await raises(ConnectionError, chaos(quick)())


closed = Pipeline(Bulkhead(9), name="closed")


@check(closed(forever), closed.aclose)
async def pipeline_closes_without_the_parents_calls() -> None:
    assert closed.snapshot()["in_flight"] == 0, closed.snapshot()
    await asyncio.wait_for(closed.aclose(), 5)


sync = Pipeline(Retry(attempts=2, wait=0), Bulkhead(1, queue=1), CircuitBreaker(), Timeout(LONG))
held = threading.Event()


@check(lambda: asyncio.to_thread(sync(held.wait)))
async def threads_of_the_parent_hold_nothing() -> None:
    assert sync.snapshot()["in_flight"] == 0, sync.snapshot()
    assert sync(lambda: 7)() == 7


@check()
async def listeners_still_hear() -> None:
    heard: list[object] = []
    stop = events.listen(heard.append)
    await raises(OSError, Retry(attempts=2, wait=0)(failing)())
    stop()
    assert heard


def locks() -> Iterator[Any]:
    """Yield all locks of the library, except locks of single calls."""
    kinds = (type(threading.Lock()), type(threading.RLock()))
    for each in gc.get_objects():
        if type(each).__module__.startswith("resilient"):
            lock = getattr(each, "_lock", None)
            if isinstance(lock, kinds):
                yield lock
    from resilient.core import context, current_call
    from resilient.events import channel
    from resilient.pipeline import names

    yield from (module._lock for module in (current_call, context, names, channel))  # type: ignore[attr-defined]


@contextmanager
def locks_held_by_another_thread() -> Iterator[None]:
    """Hold all locks of the library in another thread, as another thread may at the moment of a fork."""
    ready, done = threading.Event(), threading.Event()

    def hold() -> None:
        taken = [lock for lock in locks() if lock.acquire(blocking=False)]
        ready.set()
        done.wait()
        for lock in taken:
            lock.release()

    thread = threading.Thread(target=hold)
    thread.start()
    ready.wait()
    try:
        yield
    finally:
        done.set()
        thread.join()


def in_child(tasks: list[asyncio.Task[Any]]) -> dict[str, str | None]:
    """Run all checks in the child, and return what each found."""
    for task in tasks:  # as the garbage collector may do at any time
        coroutine = task.get_coro()
        assert coroutine is not None
        coroutine.close()
    found: dict[str, str | None] = {}
    for name, (_, function) in checks.items():
        try:
            asyncio.run(asyncio.wait_for(function(), 5))
        except BaseException:
            found[name] = traceback.format_exc()
        else:
            found[name] = None
    return found


def forked(tasks: list[asyncio.Task[Any]]) -> dict[str, str | None]:
    """Run the checks in a child of `os.fork`."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        with os.fdopen(writer, "w") as pipe:
            json.dump(in_child(tasks), pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        found: dict[str, str | None] = json.load(pipe)
    os.waitpid(child, 0)
    return found


def by_process(tasks: list[asyncio.Task[Any]]) -> dict[str, str | None]:
    """Run the checks in a child of `multiprocessing.Process`."""
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=lambda: queue.put(in_child(tasks)))
    process.start()
    found: dict[str, str | None] = queue.get()
    process.join()
    return found


in_flight: list[asyncio.Task[Any]] = []


def in_pool() -> dict[str, str | None]:
    """Run the checks in a worker of a process pool."""
    return in_child(in_flight)


@Timeout(LONG)
async def main() -> None:
    """Fork in each way, inside a call."""
    found = {}
    with deadline(LONG), priority("critical"):
        for calls, _ in checks.values():
            for call in calls:
                in_flight.append(asyncio.ensure_future(call()))
                await asyncio.sleep(0)
        await asyncio.sleep(4 * SHORT)
        with locks_held_by_another_thread():
            found["os.fork"] = forked(in_flight)
            found["multiprocessing"] = by_process(in_flight)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
            found["ProcessPoolExecutor"] = await asyncio.get_running_loop().run_in_executor(pool, in_pool)
    with locks_held_by_another_thread():  # what is in flight goes on in the parent
        pass
    assert bulkhead.snapshot()["in_use"] == keyed.snapshot()["in_use"] - 1 == probing.snapshot()["probes"] == 1
    assert hedge.snapshot()["stragglers"] == closed.snapshot()["in_flight"] == 1
    print(json.dumps(found), flush=True)
    os._exit(0)  # what hangs, hangs for ever


if __name__ == "__main__":
    asyncio.run(main())
