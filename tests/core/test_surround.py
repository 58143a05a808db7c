"""Surrounds run code around each call and each attempt, in its context; and cost nothing while there are none."""

import asyncio
from contextvars import ContextVar

import pytest

from resilient import Bulkhead, Fallback, Hedge, Pipeline, Rejected, Retry, Timeout
from resilient.core.surround import ScopedSurround, SuspendedSurrounds

CURRENT: ContextVar[str] = ContextVar("current", default="")


class Recorded(ScopedSurround):
    """Sets a variable around each part, and records what happens."""

    def __init__(self):
        self.log = []

    def __call__(self, event):
        self.log.append(f"{type(event).__name__} in {CURRENT.get()}")

    def enter(self, call, context, part):
        return _Scope(self, f"{part} {context.name} {call.attempt}")

    def exchange(self, saved):
        before = CURRENT.get()
        if saved is not None:
            CURRENT.set(saved)
        return before


class _Scope:
    def __init__(self, owner, name):
        self.owner, self.name = owner, name
        self.token = CURRENT.set(name)

    def leave(self, error):
        CURRENT.reset(self.token)

    def end(self, ending, verdict, error, result):
        shown = "" if error is None else f" {type(error).__name__}"
        self.owner.log.append(f"{self.name}: {ending} {verdict}{shown}")


class Fails(Exception):
    pass


def guarded(pipeline, kind, failures, seen):
    """A guarded function of this kind that fails so often, and records what is current while it runs."""
    left = [Fails()] * failures

    def run():
        seen.append(CURRENT.get())
        if left:
            raise left.pop()
        return "good"

    if kind == "def":
        return lambda: pipeline.call(run)

    async def arun():
        await asyncio.sleep(0)
        return run()

    async def block():
        result = None
        async for attempt in pipeline.attempts():
            seen.append(CURRENT.get())
            async with attempt:
                result = await arun()
            seen.append(CURRENT.get())
        return result

    return block if kind == "block" else lambda: pipeline.call(arun)


@pytest.mark.parametrize("kind", ["async", "def", "block"])
async def test_each_attempt_runs_within_its_scope_and_the_context_is_restored(kind):
    """A call, its attempts, and what is current in them; around blocks the caller's own context is current."""
    pipeline, surround, seen = Pipeline(Retry(attempts=3, wait=0), Bulkhead(3), name="p"), Recorded(), []
    pipeline.listen(surround)
    call = guarded(pipeline, kind, 1, seen)
    result = call()
    if kind != "def":
        assert await result == "good"
    attempts = ["attempt p 1", "attempt p 2"]
    assert seen == (["", attempts[0], "", "", attempts[1], ""] if kind == "block" else attempts)
    assert CURRENT.get() == ""
    ends = [line for line in surround.log if ":" in line]
    assert ends == ["attempt p 1: failure failure Fails", "attempt p 2: success success", "call p 1: success success"]
    assert "CallEnded in call p 1" in surround.log
    assert "Retrying in call p 1" in surround.log


async def test_a_scope_is_left_when_the_call_is_cancelled_and_when_its_coroutine_is_closed():
    pipeline, surround = Pipeline(Retry(attempts=3), name="p"), Recorded()
    pipeline.listen(surround)

    @pipeline
    async def hangs():
        await asyncio.Event().wait()

    task = asyncio.create_task(hangs())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    coroutine = hangs()
    coroutine.send(None)
    coroutine.close()
    ends = [line for line in surround.log if ":" in line]
    assert ends == [
        "attempt p 1: cancelled nothing CancelledError",
        "call p 1: cancelled nothing CancelledError",
        "attempt p 1: cancelled nothing GeneratorExit",
        "call p 1: cancelled nothing GeneratorExit",
    ]


async def test_the_endings_are_those_of_the_policies():
    """A timeout, a refusal, an answer in place of the dependency; a nested pipeline has a scope of its own."""
    surround = Recorded()
    inner = Pipeline(Bulkhead(1, queue=0), name="inner")
    slow = Pipeline(Timeout(0.01), inner, name="slow")
    slow.listen(surround)
    inner.listen(surround)

    @slow
    async def hangs():
        with pytest.raises(Rejected):
            await slow.call(other)
        await asyncio.Event().wait()

    async def other(): ...

    with pytest.raises(TimeoutError):
        await hangs()
    assert [line for line in surround.log if ":" in line] == [
        "nested inner 1: rejected nothing BulkheadFull",
        "call slow 1: rejected nothing BulkheadFull",
        "attempt slow 1: cancelled nothing CancelledError",
        "nested inner 1: cancelled nothing CancelledError",
        "call slow 1: timeout failure TimedOut",
    ]
    answers, log = Pipeline(Fallback("cached"), name="answers"), Recorded()
    answers.listen(log)

    @answers
    async def fails():
        raise Fails

    assert await fails() == "cached"
    assert log.log[-1] == "call answers 1: success nothing"


async def test_copies_of_a_hedge_run_in_scopes_of_their_own_also_inline():
    for inline in (False, True):
        pipeline, surround = Pipeline(Hedge(0.001, inline=inline), name="p"), Recorded()
        pipeline.listen(surround)
        calls = []

        @pipeline
        async def first_hangs(calls=calls):
            calls.append(CURRENT.get())
            if len(calls) == 1:
                await asyncio.Event().wait()
            return CURRENT.get()

        assert await first_hangs() == "attempt p 1"
        assert CURRENT.get() == ""
        await pipeline.aclose()
        assert calls == ["attempt p 1"] * 2
        assert "Hedging in call p 1" in surround.log, inline
        assert surround.log.count("attempt p 1: success success") == 1
        assert surround.log.count("attempt p 1: cancelled nothing CancelledError") == 1


def test_suspended_surrounds_exchange_the_contexts():
    surround = Recorded()
    suspended = SuspendedSurrounds((surround,))
    token = CURRENT.set("inside")
    suspended.exchange()
    assert CURRENT.get() == ""
    suspended.exchange()
    assert CURRENT.get() == "inside"
    CURRENT.reset(token)
