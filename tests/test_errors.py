"""The errors: one tree, with what a handler needs, that survives pickling and copying."""

from __future__ import annotations

import asyncio
import copy
import pickle
import re
import traceback
from collections.abc import Callable
from typing import Any

import httpx
import pybreaker
import pytest

import resilient
from resilient import (
    AdaptiveLimit,
    Bulkhead,
    BulkheadFull,
    CircuitBreaker,
    CircuitOpen,
    Deadlock,
    Keyed,
    Pipeline,
    PipelineClosed,
    PipelineError,
    PipelineWarning,
    RateLimit,
    Rejected,
    ResilientError,
    Retry,
    TimedOut,
    Timeout,
    VirtualTimeError,
    deadline,
    errors,
)
from resilient.core.call import Call
from resilient.core.facts import Facts
from resilient.core.gate import Gate
from resilient.core.policy import Policy
from resilient.events import CallRejected
from resilient.http.httpx import AsyncClient
from resilient.runtime import virtual
from tests.worlds import Hang, Until, World, left_queue


@pytest.mark.parametrize(
    ("error", "parents"),
    [
        (ResilientError, [Exception]),
        (Rejected, [ResilientError]),
        (CircuitOpen, [Rejected, pybreaker.CircuitBreakerError]),
        (BulkheadFull, [Rejected]),
        (PipelineClosed, [Rejected]),
        (TimedOut, [ResilientError, TimeoutError]),
        (PipelineError, [ValueError]),
        (PipelineWarning, [UserWarning]),
        (Deadlock, [RuntimeError]),
        (VirtualTimeError, [BaseException]),
    ],
)
def test_error_stands_in_the_tree_where_the_docstring_draws_it(error: type, parents: list[type]) -> None:
    """Each error has the base classes that the docstring draws, on which handlers rely."""
    assert list(error.__bases__) == parents
    assert error.__name__ in (errors.__doc__ or "")


def test_timed_out_is_not_a_rejection_and_the_errors_of_building_are_no_errors_of_calls() -> None:
    """`except Rejected` means that nothing was sent; `except ResilientError` means a call."""
    assert not issubclass(TimedOut, Rejected)
    assert not any(issubclass(each, ResilientError) for each in (PipelineError, PipelineWarning, Deadlock))


def test_every_error_is_public() -> None:
    """Each can be imported from the package itself."""
    assert set(errors.__all__) <= set(resilient.__all__)


# -- what they carry ------------------------------------------------------------------------------------------------


def test_circuit_open_carries_pipeline_policy_and_retry_after(world: World) -> None:
    """CircuitOpen has the pipeline, the policy and retry_after, and its text says them."""
    pipeline = Pipeline(CircuitBreaker(fail_max=1, failure_rate=None, break_duration=30, name="circuit"), name="users")
    world.outcome(pipeline(world.dependency(OSError()).fn))
    error = world.outcome(pipeline(world.dependency().fn)).error
    assert isinstance(error, CircuitOpen)
    assert (error.pipeline, error.policy) == ("users", "circuit")
    assert error.retry_after is not None
    assert 0 < error.retry_after <= 30
    assert str(error).startswith("users: circuit is open; try again in ")


def test_circuit_isolated_by_hand_has_no_retry_after() -> None:
    """An isolated circuit has no retry_after, because only `close()` ends it."""
    breaker = CircuitBreaker(name="circuit")
    breaker.isolate()
    with pytest.raises(CircuitOpen, match=r"^circuit is isolated$") as caught:
        Pipeline(breaker).call(lambda: None)
    assert caught.value.retry_after is None


def test_bulkhead_full_carries_pipeline_and_policy(world: World) -> None:
    """BulkheadFull has the pipeline and the policy, and its text says how many calls run."""
    pipeline = Pipeline(Bulkhead(1, name="compartment"), name="users")
    error = world.outcome(world.nested(pipeline)).error
    assert isinstance(error, BulkheadFull)
    assert (error.pipeline, error.policy, error.retry_after) == ("users", "compartment", None)
    assert str(error) == "users: compartment is full: 1 running, 0 queued"


def test_timed_out_carries_pipeline_policy_seconds_and_evidence(world: World) -> None:
    """The dependency had all of the time: that is evidence."""
    pipeline = Pipeline(Timeout(0.02, thread=True, name="patience"), name="users")
    error = world.outcome(pipeline(world.dependency(Hang()).fn)).error
    assert isinstance(error, TimedOut)
    assert (error.pipeline, error.policy, error.seconds, error.evidence) == ("users", "patience", 0.02, True)
    assert str(error) == "users: patience of 0.02 s expired"


def test_timed_out_in_a_local_queue_is_no_evidence(world: World) -> None:
    """TimedOut in a local queue is no evidence, because the dependency did not have the time."""
    bulkhead = Bulkhead(1, queue=1)
    pipeline, blocker = Pipeline(Timeout(0.03), bulkhead), Pipeline(bulkhead)
    dependency = world.dependency(Until(left_queue(bulkhead)))
    error = world.together(blocker(dependency.fn), pipeline(dependency.fn))[1].error
    assert isinstance(error, TimedOut)
    assert not error.evidence


def test_rejection_of_a_policy_used_alone_has_no_pipeline_name() -> None:
    """There is none; the policy's own name is there."""
    breaker = CircuitBreaker()
    breaker.isolate()
    with pytest.raises(CircuitOpen) as caught:
        breaker(lambda: None)()
    assert (caught.value.pipeline, caught.value.policy) == ("", "CircuitBreaker")


def test_deadlock_says_what_waits_where() -> None:
    """In virtual time nothing else could wake it."""
    import asyncio

    async def stuck() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Deadlock, match=r"nothing can ever run again at t = 0 s; 1 task\(s\) wait:\n.*stuck.*wait"):
        virtual.run(stuck())


# -- pickling -------------------------------------------------------------------------------------------------------

MADE = [
    ResilientError("message", pipeline="users", policy="policy"),
    Rejected("message", pipeline="users", policy="policy", retry_after=1.5),
    CircuitOpen("message", pipeline="users", policy="policy", retry_after=1.5),
    BulkheadFull("message", pipeline="users", policy="policy"),
    PipelineClosed("message", pipeline="users"),
    TimedOut("message", pipeline="users", policy="policy", seconds=2.5, evidence=False),
    PipelineError("message"),
    PipelineWarning("message"),
    Deadlock("message"),
    VirtualTimeError("message"),
    ResilientError(),
    TimedOut(),
]


@pytest.mark.parametrize("error", MADE, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("clone", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
def test_error_survives_pickling_and_copying(error: BaseException, clone: Callable[[Any], Any]) -> None:
    """Type, message and everything it carries, as process pools and task queues need it."""
    twin = clone(error)
    assert type(twin) is type(error)
    assert str(twin) == str(error)
    assert twin.args == error.args
    assert vars(twin) == vars(error)


def test_error_with_a_note_keeps_it_when_pickled() -> None:
    """What Retry has added travels with it."""
    error = TimedOut("message", seconds=1)
    error.add_note("a note")
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["a note"]


def test_error_raised_by_a_call_pickles(world: World) -> None:
    """Errors that policies have raised pickle, too."""
    breaker = CircuitBreaker(name="circuit")
    breaker.isolate()
    error = world.outcome(Pipeline(Retry(), breaker, name="users")(world.dependency().fn)).error
    twin = pickle.loads(pickle.dumps(error))
    assert (type(twin), str(twin), twin.pipeline, twin.policy) == (CircuitOpen, str(error), "users", "circuit")


# -- refusals, whose message is put together when it is read ---------------------------------------------------------


def _open() -> Policy:
    breaker = CircuitBreaker(break_duration=3600, max_break=3600, name="gate")
    breaker.open()
    return breaker


def _used() -> Policy:
    limit = RateLimit(1, per=3600, burst=1, name="gate")
    limit(lambda: None)()
    return limit


def _full() -> Policy:
    """A bulkhead whose only permit never comes back."""
    bulkhead = Bulkhead(1, name="gate")
    bulkhead.admit(Call())
    return bulkhead


def _crowded() -> Policy:
    """An adaptive limit with a call inside that never ends."""
    limit = AdaptiveLimit(1, max_limit=1, name="gate")
    limit.admit(Call())
    return limit


GATES: dict[Callable[[], Policy], str] = {
    _open: r"gate is open; try again in 3\.6e\+03 s",
    _used: r"gate of 1 per 3600 s is used up; the next token comes in 3\.6e\+03 s",
    _full: r"gate is full: 1 running, 0 queued",
    _crowded: r"gate of 1 has no room for a normal call: 1 inside, 0 queued",
}


@pytest.fixture(params=GATES, ids=["breaker", "rate limit", "bulkhead", "adaptive limit"])
def refused(request: pytest.FixtureRequest) -> tuple[Rejected, str]:
    """A refusal of each kind of gate, with its message not yet formatted; and a pattern for the message."""
    with pytest.raises(Rejected) as caught:
        Pipeline(request.param(), name="users").call(lambda: None)
    return caught.value, GATES[request.param]


READ: list[Callable[[Rejected], str]] = [
    lambda error: str(error).removeprefix("users: "),
    errors.reason_of,
    lambda error: error.args[0],
    lambda error: str(eval(repr(error), {type(error).__name__: lambda message: message})),
    lambda error: pickle.loads(pickle.dumps(error)).args[0],
    lambda error: copy.copy(error).args[0],
    lambda error: copy.deepcopy(error).args[0],
    lambda error: "".join(traceback.format_exception_only(error)).strip().rpartition("users: ")[2],
]


@pytest.mark.parametrize("read", READ, ids=["str", "reason", "args", "repr", "pickle", "copy", "deepcopy", "traceback"])
def test_refusal_reads_the_same_whichever_way_it_is_read(
    refused: tuple[Rejected, str], read: Callable[[Rejected], str]
) -> None:
    """The message of a refusal is the same text in all ways to read it, the first time and the second."""
    error, pattern = refused
    first = read(error)
    assert re.fullmatch(pattern, first)
    assert read(error) == first == error.args[0]
    assert type(error.args[0]) is str


def test_refusal_carries_what_one_does_that_is_made_by_hand(refused: tuple[Rejected, str]) -> None:
    """A handler, or a serializer that looks into it, cannot tell them apart."""
    error, _ = refused
    twin = type(error)(error.args[0], pipeline="users", policy="gate", retry_after=error.retry_after)
    if isinstance(error, CircuitOpen):
        twin.opening = error.opening  # type: ignore[attr-defined]
    assert vars(twin) | {"_code": error.code} == vars(error)
    assert (twin.args, str(twin), repr(twin)) == (error.args, str(error), repr(error))


def test_refusal_takes_other_args_and_notes_as_every_exception_does(refused: tuple[Rejected, str]) -> None:
    """Code that rewrites messages goes on to work."""
    error, _ = refused
    error.add_note("a note")
    error.args = ("another message",)
    twin = pickle.loads(pickle.dumps(error))
    assert error.args == twin.args == ("another message",)
    assert twin.__notes__ == ["a note"]


def test_class_of_a_users_own_refusal_may_have_another_message_and_base() -> None:
    """A user's own class of refusals is made by its constructor, with any message and base."""

    class Shed(BulkheadFull, ConnectionError):
        def __init__(self, load: float) -> None:
            super().__init__(f"load is {load}", policy="shed", retry_after=1.0)

    error = Shed(0.9)
    assert (str(error), error.args, error.policy, error.retry_after) == ("load is 0.9", ("load is 0.9",), "shed", 1.0)


@pytest.mark.parametrize("args", [(), ("",), ((),), (("{}", "b"),), ("{}", "b")])
def test_args_of_a_users_own_stay_as_they_are(args: tuple[Any, ...]) -> None:
    """Only what a gate has said is put together."""
    error, other = Rejected(), Exception(*args)
    error.args = args
    assert (error.args, str(error)) == (args, str(other))
    assert repr(error) == repr(other).replace("Exception", "Rejected")


def test_text_of_another_base_of_a_users_error_is_heard() -> None:
    """`__str__` goes on along the bases, as that of every exception."""

    class Coded(Exception):
        def __str__(self) -> str:
            return f"E17 {super().__str__()}"

    class Shed(BulkheadFull, Coded):
        pass

    assert str(Shed("too much", pipeline="users")) == "users: E17 too much"


# -- what they say --------------------------------------------------------------------------------------------------


async def _isolated() -> Any:
    breaker = Keyed(CircuitBreaker, key=lambda host: host)
    breaker.gate_for("https://a:443").isolate()  # type: ignore[attr-defined]
    await Pipeline(breaker, name="users")(_fetch)("https://a:443")


async def _closed() -> Any:
    pipeline = Pipeline(Retry(), name="users")
    await pipeline.aclose()
    await pipeline(_fetch)("https://a:443")


async def _used_up() -> Any:
    guarded = Pipeline(Keyed(lambda: RateLimit(1, burst=1), key=lambda host: host), name="users")(_fetch)
    await asyncio.gather(guarded("https://a:443"), guarded("https://a:443"))


async def _queued() -> Any:
    guarded = Pipeline(Bulkhead(1, queue=1, queue_timeout=1), name="users")(_fetch)
    await asyncio.gather(guarded("https://a:443"), guarded("https://a:443"))


async def _late() -> Any:
    await Pipeline(Timeout(2), name="users")(_fetch)("https://a:443")


async def _late_for_a_key() -> Any:
    bulkheads = Keyed(Bulkhead, key=lambda host: host)
    await Pipeline(Timeout(2), bulkheads, name="users")(_fetch)("https://a:443")


async def _late_with_a_bad_key() -> Any:
    """The key function raises only when it is asked again, for the error."""
    keys = iter(["https://a:443"])
    bulkheads = Keyed(Bulkhead, key=lambda host: next(keys))
    await Pipeline(Timeout(2), bulkheads, name="users")(_fetch)("https://a:443")


async def _inherited() -> Any:
    with deadline(2):
        await Pipeline(Retry(), name="users")(_fetch)("https://a:443")


async def _inherited_for_a_key() -> Any:
    with deadline(2):
        nested = Pipeline(Keyed(Bulkhead, key=lambda host: host))
        await Pipeline(nested, name="users")(_fetch)("https://a:443")


async def _refused_by_a_users_gate() -> Any:
    await Pipeline(Keyed(_Never, key=lambda host: host), name="users")(_fetch)("https://a:443")


class _Never(Gate):
    facts = Facts(learns=False)

    def admit(self, call: Call) -> Any:
        raise Rejected(f"{self.name} admits nothing", policy=self.name)


async def _requested() -> Any:
    breaker = CircuitBreaker(None, fail_max=1)
    transport = httpx.MockTransport(lambda request: httpx.Response(503))
    async with AsyncClient(Pipeline(breaker, name="users"), transport=transport) as client:
        await client.get("https://a")
        await client.get("https://a")


async def _fetch(host: str) -> None:
    await asyncio.sleep(5)


SAID: dict[Callable[[], Any], str] = {
    _isolated: r"users: CircuitBreaker for https://a:443 is isolated",
    _closed: r"users: the pipeline is closed",
    _used_up: r"users: RateLimit for https://a:443 of 1 per second is used up",
    _queued: r"users: Bulkhead is full: no permit within 1 s",
    _late: r"users: Timeout of 2 s expired$",
    _late_for_a_key: r"users: Timeout of 2 s for https://a:443 expired$",
    _late_with_a_bad_key: r"users: Timeout of 2 s expired$",
    _inherited: r"users: the deadline of 2 s, set by the caller, has passed$",
    _inherited_for_a_key: r"users: the deadline of 2 s, set by the caller, has passed for https://a:443$",
    _refused_by_a_users_gate: r"users: _Never\[https://a:443\] admits nothing$",
    _requested: r"users: CircuitBreaker for https://a(:443)? is open",
}


@pytest.mark.virtual_time
@pytest.mark.parametrize(("main", "text"), SAID.items(), ids=[main.__name__ for main in SAID])
async def test_error_names_its_pipeline_and_the_key_of_its_gate(main: Callable[[], Any], text: str) -> None:
    """A log with nothing but the text of the error says whose it is."""
    with pytest.raises((ResilientError, httpx.TransportError), match=f"^{text}"):
        await main()


KEYED = [_isolated, _used_up, _requested, _late_for_a_key, _inherited_for_a_key, _refused_by_a_users_gate]


@pytest.mark.virtual_time
@pytest.mark.parametrize("main", SAID, ids=[main.__name__ for main in SAID])
async def test_error_has_its_key_apart_from_the_name_of_its_policy(main: Callable[[], Any]) -> None:
    """An error tracker groups by `policy` and `key`; the key pickles with the error."""
    with pytest.raises((ResilientError, httpx.TransportError)) as caught:
        await main()
    error: Any = pickle.loads(pickle.dumps(caught.value))
    assert error.key == ("" if main not in KEYED else "https://a:443")
    assert "[" not in error.policy


def test_note_of_retries_names_the_key(world: World) -> None:
    """The user's own error says which dependency it is about."""
    pipeline = Pipeline(Retry(2, wait=0), Keyed(Bulkhead, key=lambda host: host), name="users")
    dependency = world.dependency(OSError(), OSError())
    error = world.outcome(pipeline(dependency.fn), "eu-1").error
    assert error is not None
    assert error.__notes__ == ["resilient: pipeline 'users' gave up on eu-1 after 2 attempts: attempts spent"]


def test_event_of_a_refusal_does_not_repeat_the_name(world: World) -> None:
    """The reason in the event of a refusal lacks the pipeline's name, which the event has already."""
    breaker = CircuitBreaker()
    breaker.isolate()
    pipeline, told = Pipeline(breaker, name="users"), []
    pipeline.listen(told.append)
    world.outcome(pipeline(world.dependency().fn))
    assert [event.reason for event in told if isinstance(event, CallRejected)] == ["CircuitBreaker is isolated"]
