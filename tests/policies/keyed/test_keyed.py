"""Keyed: a gate for each key, the order in which keys are evicted, and which are never evicted."""

from __future__ import annotations

import asyncio
import gc
import math
import sys
import threading
import time
import warnings
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pybreaker
import pytest
import trio
import uvloop

from resilient import (
    AdaptiveLimit,
    Bulkhead,
    BulkheadFull,
    CircuitBreaker,
    CircuitOpen,
    Keyed,
    Pipeline,
    PipelineWarning,
    RateLimit,
    RateLimited,
    Rejected,
    Retry,
    TimedOut,
    Timeout,
    events,
)
from resilient.core.call import Call
from resilient.core.facts import Facts
from resilient.core.gate import Gate
from resilient.policies.keyed.key_table import LOOKS
from tests.properties.cancellation_driver import cancel_at_every_point, cancel_at_every_step_of_trio
from tests.worlds import World


def first(key: Any, *rest: Any) -> Any:
    """The key of a call: its first argument."""
    return key


def breakers(fail_max: int = 2, **options: Any) -> Keyed:
    """A breaker for each key, with a long break."""
    return Keyed(lambda: CircuitBreaker(fail_max=fail_max, break_duration=3600, max_break=3600), key=first, **options)


class Service:
    """Many servers behind one function: calls to those in `down` fail."""

    def __init__(self, world: World, *down: Any) -> None:
        self.down = set(down)
        self.calls: list[Any] = []

        def fetch(key: Any) -> str:
            self.calls.append(key)
            if key in self.down:
                raise OSError(f"{key} is down")
            return f"from {key}"

        async def fetch_async(key: Any) -> str:
            return fetch(key)

        self.fn: Callable[[Any], Any] = fetch_async if world.is_async else fetch


def keys_of(keyed: Keyed) -> list[str]:
    """Its keys, the most recently used first, by the names of their gates."""
    return [name.partition("[")[2][:-1] for name in keyed.snapshot()["gates"]]


# -- a gate for each key --------------------------------------------------------------------------------------------


def test_key_that_fails_opens_its_own_circuit_only(world: World) -> None:
    """The healthy keys are served, and no more calls go to the failing one."""
    keyed, service = breakers(), Service(world, "bad")
    guarded = keyed(service.fn)
    ends = [world.outcome(guarded, key) for key in ("bad", "good", "bad", "bad", "good", "bad")]
    assert [type(end.error) for end in ends] == [OSError, type(None), OSError, CircuitOpen, type(None), CircuitOpen]
    assert service.calls == ["bad", "good", "bad", "good"]
    assert keyed.snapshot()["in_use"] == 0


def test_evidence_is_kept_for_each_key(world: World) -> None:
    """Failures of several keys do not add up, and a success of one does not count for another."""
    keyed, service = breakers(fail_max=3), Service(world, "a", "b")
    guarded = keyed(service.fn)
    for key in ("a", "b", "a", "b", "c"):
        world.outcome(guarded, key)
    counts = {name: gate["failures_in_a_row"] for name, gate in keyed.snapshot()["gates"].items()}
    assert counts == {"CircuitBreaker[c]": 0, "CircuitBreaker[b]": 2, "CircuitBreaker[a]": 2}


def test_key_is_taken_from_all_arguments_of_the_call(world: World) -> None:
    """The key function gets positional and keyword arguments."""
    keys: list[Any] = []

    def key(path: str, *, host: str = "default") -> tuple[str, str]:
        keys.append((path, host))
        return keys[-1]

    dependency = world.dependency(1, 2, 3)
    guarded = Keyed(lambda: Bulkhead(1), key=key)(dependency.fn)
    for args, kwargs in ((("/a",), {"host": "h"}), (("/b",), {}), ((), {"path": "/c"})):
        world.call(guarded, *args, **kwargs)
    assert keys == [("/a", "h"), ("/b", "default"), ("/c", "default")]
    assert dependency.arguments == [(("/a",), {"host": "h"}), (("/b",), {}), ((), {"path": "/c"})]


def test_keys_that_are_equal_share_a_gate(world: World) -> None:
    """Equality counts as in a dict; a key need not be a string."""
    keyed, service = Keyed(CircuitBreaker, key=first), Service(world)
    guarded = keyed(service.fn)
    for key in (("h", 1), ("h", 1), ("h", 2), None, frozenset({1}), frozenset({1})):
        world.call(guarded, key)
    assert keyed.snapshot()["keys"] == 4


def test_one_instance_keeps_one_table_whatever_it_guards(world: World) -> None:
    """Two functions in two pipelines share the circuits."""
    keyed, service = breakers(), Service(world, "bad")
    one, other = keyed(service.fn), Pipeline(Retry(2, wait=0), keyed, name="keyed once more")(service.fn)
    assert isinstance(world.outcome(one, "bad").error, OSError)
    assert isinstance(world.outcome(other, "bad").error, OSError)
    assert isinstance(world.outcome(one, "bad").error, CircuitOpen)
    assert service.calls == ["bad", "bad"]


def test_bulkhead_for_each_key_limits_each_key(world: World) -> None:
    """Each key has one call at a time, and does not wait for the other."""
    keyed = Keyed(lambda: Bulkhead(1), key=first)
    service = Service(world)
    inner = keyed(service.fn)
    ends: list[Any] = []

    async def hold(key: str) -> None:
        for other in ("a", "b"):
            try:
                ends.append(await inner(other))
            except BulkheadFull as error:
                ends.append(str(error))

    def hold_def(key: str) -> None:
        for other in ("a", "b"):
            try:
                ends.append(inner(other))
            except BulkheadFull as error:
                ends.append(str(error))

    world.call(keyed(hold if world.is_async else hold_def), "a")
    assert ends == ["Bulkhead for a is full: 1 running, 0 queued", "from b"]
    assert keyed.snapshot()["in_use"] == 0
    world.call(inner, "a")


def test_bulkhead_with_a_queue_for_each_key_serves_each_in_order(world: World) -> None:
    """Each key has its own queue, and each waiter is served."""
    keyed = Keyed(lambda: Bulkhead(1, queue=9), key=first, max_keys=1)
    inside, most, served = Counter[str](), Counter[str](), []

    def enter(key: str, number: int) -> None:
        inside[key] += 1
        most[key] = max(most[key], inside[key])
        served.append((key, number))

    async def fetch(key: str, number: int) -> None:
        enter(key, number)
        await world.sleep(0.005)
        inside[key] -= 1

    def fetch_def(key: str, number: int) -> None:
        enter(key, number)
        time.sleep(0.005)
        inside[key] -= 1

    guarded = keyed(fetch if world.is_async else fetch_def)
    calls = [(key, number) for number in range(4) for key in ("a", "b")]
    ends = world.together(*(lambda call=call: guarded(*call) for call in calls))
    assert [end.error for end in ends] == [None] * 8
    assert most == {"a": 1, "b": 1}
    for key in ("a", "b"):
        assert [number for name, number in served if name == key] == [0, 1, 2, 3]
    assert keyed.snapshot()["in_use"] == 0


def test_rate_limit_for_each_key_limits_each_key(world: World) -> None:
    """Each key has its own bucket."""
    keyed, service = Keyed(lambda: RateLimit(2, per=3600, burst=2), key=first), Service(world)
    guarded = keyed(service.fn)
    ends = [world.outcome(guarded, key).error for key in ("a", "a", "a", "b", "b", "b")]
    assert [type(error) for error in ends] == [type(None), type(None), RateLimited] * 2
    assert service.calls == ["a", "a", "b", "b"]
    assert keyed.snapshot()["in_use"] == 0


@pytest.mark.virtual_time
async def test_rate_limit_for_each_key_has_a_queue_for_each_key() -> None:
    """No call waits for the token of another key."""
    keyed = Keyed(lambda: RateLimit(1, burst=1, max_wait=9), key=first)
    now = asyncio.get_running_loop().time
    begin, served = now(), []

    async def fetch(key: str) -> None:
        served.append((key, now() - begin))

    guarded = keyed(fetch)
    await asyncio.gather(*(guarded(key) for key in "aabab"))
    assert served == [("a", 0.0), ("b", 0.0), ("a", 1.0), ("b", 1.0), ("a", 2.0)]


def test_token_of_a_call_that_a_gate_behind_refused_comes_back_to_its_key(world: World) -> None:
    """`undo` reaches the gate that admitted the call."""
    keyed, breaker = Keyed(lambda: RateLimit(1, per=3600, burst=3), key=first), CircuitBreaker()
    breaker.isolate()
    guarded = Pipeline(keyed, breaker)(Service(world).fn)
    for key in ("a", "a", "b", "a", "a", "a", "a"):
        assert isinstance(world.outcome(guarded, key).error, CircuitOpen)
    assert keyed.snapshot()["in_use"] == 0


# -- what the frame of the gates must know --------------------------------------------------------------------------


def test_hanging_key_that_an_outer_timeout_cuts_short_opens_its_own_circuit_only(world: World) -> None:
    """A call that is cut at its full age is a failure of its key."""
    if not world.is_async:
        pytest.skip("a plain def is not interrupted")
    keyed = breakers()

    async def fetch(key: str) -> str:
        if key == "bad":
            await world.sleep(3600)
        return f"from {key}"

    hasty, patient = (Pipeline(Timeout(seconds), keyed)(fetch) for seconds in (0.005, 30))
    cuts = 0
    # A machine that stands still before the dependency is asked makes a cut too young to be evidence.
    while isinstance(refusal := world.outcome(hasty, "bad").error, TimedOut):
        cuts += 1
    assert cuts >= 2
    assert isinstance(refusal, CircuitOpen)
    assert isinstance(world.outcome(patient, "bad").error, CircuitOpen)
    assert world.outcome(patient, "good").value == "from good"
    assert keyed.snapshot()["in_use"] == 0


@pytest.mark.virtual_time
async def test_slow_key_opens_its_own_circuit_only() -> None:
    """A gate that needs the durations of its calls gets them."""
    keyed = Keyed(
        lambda: CircuitBreaker(failure_rate=None, slow=0.5, slow_rate=1.0, min_calls=2, window_calls=2), key=first
    )

    async def fetch(key: str) -> None:
        await asyncio.sleep(1.0 if key == "slow" else 0.25)

    guarded = keyed(fetch)
    for key in ("slow", "quick", "slow", "quick", "quick"):
        await guarded(key)
    with pytest.raises(CircuitOpen):
        await guarded("slow")
    await guarded("quick")


def test_order_of_keyed_gates_is_judged_like_that_of_the_gates() -> None:
    """Lint warns of a breaker outside a queue, and of a queue inside a breaker."""
    with pytest.warns(PipelineWarning, match="Keyed"):
        Pipeline(breakers(), Bulkhead(1, queue=1))
    with pytest.warns(PipelineWarning, match="Keyed"):
        Pipeline(CircuitBreaker(), Keyed(lambda: Bulkhead(1, queue=1), key=first))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Pipeline(Retry(2), Keyed(lambda: Bulkhead(1, queue=1), key=first), breakers(), Timeout(1))


@pytest.mark.virtual_time
async def test_circuit_that_opened_while_a_call_waited_behind_it_is_asked_again_by_key() -> None:
    """The circuit of the call's own key decides, not that of another key."""
    with pytest.warns(PipelineWarning):
        pipeline = Pipeline(breakers(fail_max=1), Bulkhead(1, queue=9))
    sent: list[str] = []

    async def fetch(key: str) -> None:
        sent.append(key)
        await asyncio.sleep(1)
        if key == "bad":
            raise OSError

    guarded = pipeline(fetch)
    ends = await asyncio.gather(*map(guarded, ("bad", "bad", "good")), return_exceptions=True)
    assert [type(end) for end in ends] == [OSError, CircuitOpen, type(None)]
    assert sent == ["bad", "good"]


def test_shadow_breakers_refuse_no_call_and_count(world: World) -> None:
    """The factory makes them with `shadow=True`, for all keys."""
    keyed = Keyed(lambda: CircuitBreaker(fail_max=1, shadow=True), key=first)
    guarded = keyed(Service(world, "bad").fn)
    ends = [world.outcome(guarded, key).error for key in ("bad", "bad", "bad", "good")]
    assert [type(error) for error in ends] == [OSError, OSError, OSError, type(None)]
    assert keyed.snapshot()["would_have_refused"] == 2
    assert keyed.snapshot()["in_use"] == 0


@pytest.mark.virtual_time
async def test_block_has_the_key_that_a_function_without_arguments_gives() -> None:
    """A block has no arguments; a key function that reads the context needs none."""
    keyed = Keyed(lambda: Bulkhead(1), key=lambda: "the tenant")
    async for attempt in Pipeline(keyed).attempts():
        async with attempt:
            assert keyed.snapshot()["in_use"] == 1
    assert keys_of(keyed) == ["the tenant"]
    with pytest.raises(TypeError, match="positional argument"):
        async for attempt in Pipeline(breakers()).attempts():
            async with attempt:
                pass


# -- errors of the caller -------------------------------------------------------------------------------------------


def test_key_function_that_raises_is_the_callers_error(world: World) -> None:
    """The caller gets the error itself; no function is called, and no permit is held."""
    error = LookupError("no tenant")

    def key(name: str) -> str:
        if name == "bad":
            raise error
        return name

    keyed, bulkhead, service = Keyed(lambda: Bulkhead(1), key=key), Bulkhead(1), Service(world)
    guarded = Pipeline(bulkhead, keyed)(service.fn)
    assert world.outcome(guarded, "bad").error is error
    assert service.calls == []
    assert (bulkhead.snapshot()["in_use"], keyed.snapshot()["in_use"], keyed.snapshot()["keys"]) == (0, 0, 0)
    assert world.call(guarded, "good") == "from good"


def test_key_that_cannot_be_hashed_is_the_callers_error(world: World) -> None:
    """The error is the same as from a dict."""
    keyed, service = breakers(), Service(world)
    error = world.outcome(keyed(service.fn), ["a list"]).error
    assert isinstance(error, TypeError)
    assert "unhashable" in str(error)
    assert service.calls == []
    assert (keyed.snapshot()["in_use"], keyed.snapshot()["keys"]) == (0, 0)


def test_factory_that_raises_later_is_the_callers_error_too(world: World) -> None:
    """Then the key has no entry, and the next call tries again."""
    made: list[int] = []

    def factory() -> Gate:
        made.append(len(made))
        if len(made) == 2:
            raise LookupError("no configuration")
        return Bulkhead(1)

    keyed = Keyed(factory, key=first)
    guarded = keyed(Service(world).fn)
    assert isinstance(world.outcome(guarded, "a").error, LookupError)
    assert (keyed.snapshot()["in_use"], keyed.snapshot()["keys"]) == (0, 0)
    assert world.call(guarded, "a") == "from a"


def test_factory_is_called_once_to_begin_with_and_once_for_each_key(world: World) -> None:
    """The first gate only serves as a pattern."""
    made: list[Bulkhead] = []

    def factory() -> Bulkhead:
        made.append(Bulkhead(1))
        return made[-1]

    keyed = Keyed(factory, key=first)
    assert len(made) == 1
    guarded = keyed(Service(world).fn)
    for key in ("a", "b", "a", "b", "c"):
        world.call(guarded, key)
    assert len(made) == 4
    assert keyed.gate_for("c") is made[3]


@pytest.mark.parametrize(
    "gates",
    [
        [Bulkhead(1)] * 3,
        [Bulkhead(1), *[Bulkhead(1)] * 2],
        [Bulkhead(1), CircuitBreaker(), CircuitBreaker()],
        [Bulkhead(1), Bulkhead(1, queue=1), Bulkhead(1, queue=1)],
        [Bulkhead(1), None, None],
        [CircuitBreaker(), CircuitBreaker(shadow=True), CircuitBreaker(shadow=True)],
    ],
    ids=["the same", "the same later", "another kind", "now with a queue", "nothing", "a shadow"],
)
def test_factory_must_make_a_new_gate_of_the_same_kind_each_time(gates: list[Any]) -> None:
    """A shared gate would share its state between keys; and the gate layer is generated for one kind."""
    make = iter(gates)
    keyed = Keyed(lambda: next(make), key=first)
    guarded = keyed(lambda key: key)
    with pytest.raises((TypeError, ValueError), match="factory must"):
        for key in "ab":
            guarded(key)
    assert keyed.snapshot()["in_use"] == 0


def test_gates_found_by_two_functions_emit_in_the_pipelines_of_both() -> None:
    """Both pipelines get the events, also of keys that came by the other, and of keys that came after the pipelines."""
    heard: list[str] = []
    keyed = Keyed(CircuitBreaker, key=first)
    pipelines = [Pipeline(keyed, name="by place"), Pipeline(keyed._found_by(lambda *, key: key), name="by name")]
    for pipeline in pipelines:
        pipeline.listen(lambda event: heard.append(event.pipeline))
    for gate in keyed.gate_for("a"), pipelines[1].policies[0].gate_for("b"):  # type: ignore[attr-defined]
        gate.open()  # type: ignore[attr-defined]
    assert heard == ["by place", "by name"] * 2


def test_gate_of_a_key_knows_what_it_was_made_with() -> None:
    """Constants of the factory are kept once for all keys; other arguments are kept for each gate."""
    permits = iter([1, 1, 2])
    keyed = Keyed(lambda: Bulkhead(next(permits), queue=3), key=first)
    same, other = keyed.gate_for("a"), keyed.gate_for("b")
    assert same._init_args is keyed._pattern._init_args == ((1,), {"queue": 3})
    assert other._init_args == ((2,), {"queue": 3})


async def _coroutine() -> Gate:
    return Bulkhead(1)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"factory": CircuitBreaker()}, TypeError, "factory must make a new gate for each key, got a policy itself"),
        ({"factory": lambda: Retry(2)}, TypeError, r"factory must make a gate .*, got Retry"),
        ({"factory": lambda: Pipeline(Bulkhead(1))}, TypeError, "factory must make a gate"),
        ({"factory": lambda: None}, TypeError, "factory must make a gate"),
        ({"factory": lambda: CircuitBreaker}, TypeError, "factory must make a gate"),
        ({"factory": _coroutine}, TypeError, "factory"),
        ({"factory": "CircuitBreaker"}, TypeError, "factory"),
        ({"key": "host"}, TypeError, "key"),
        ({"key": _coroutine}, TypeError, "key"),
        ({"key": None}, TypeError, "key"),
        ({"max_keys": 0}, ValueError, "max_keys"),
        ({"max_keys": 1.5}, TypeError, "max_keys"),
        ({"max_keys": True}, TypeError, "max_keys"),
        ({"idle": 0}, ValueError, "idle"),
        ({"idle": -1}, ValueError, "idle"),
        ({"idle": math.nan}, ValueError, "idle"),
        ({"idle": True}, TypeError, "idle"),
        ({"name": ""}, ValueError, "name"),
    ],
)
def test_bad_configuration_is_refused_with_the_argument_and_its_value(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    """The constructor raises."""
    with pytest.raises(error, match=message):
        Keyed(**{"factory": CircuitBreaker, "key": first, **arguments})


# -- names ----------------------------------------------------------------------------------------------------------


def test_rejections_and_events_name_the_gate_and_its_key(world: World) -> None:
    """A log shows which circuit it was."""
    keyed = Keyed(lambda: CircuitBreaker(fail_max=1, name="db"), key=first)
    pipeline = Pipeline(keyed, name="names of keys")
    heard: list[Any] = []
    pipeline.listen(heard.append)
    guarded = pipeline(Service(world, "eu-1").fn)
    world.outcome(guarded, "eu-1")
    error = world.outcome(guarded, "eu-1").error
    assert isinstance(error, CircuitOpen)
    assert (error.pipeline, error.policy, error.key) == ("names of keys", "db", "eu-1")
    assert str(error).startswith("names of keys: db for eu-1 is open; try again in ")
    named = [event.policy for event in heard if isinstance(event, events.CircuitChanged | events.CallRejected)]
    assert named == ["db[eu-1]", "db[eu-1]"]


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("eu-1", "Bulkhead[eu-1]"),
        (7, "Bulkhead[7]"),
        (("h", 443), "Bulkhead[('h', 443)]"),
        ("two\nlines", "Bulkhead['two\\nlines']"),
        ("long" * 100, "Bulkhead[" + "long" * 22 + "l...2a4704f1]"),
    ],
)
def test_name_of_a_gate_shows_its_key_in_short(key: Any, name: str) -> None:
    """The name is one line for any key."""
    assert Keyed(lambda: Bulkhead(1), key=first).gate_for(key).name == name


def test_pybreaker_listener_gets_the_name_with_the_key(world: World) -> None:
    """One listener for all circuits can tell them apart."""
    told: list[str | None] = []

    class Listener(pybreaker.CircuitBreakerListener):
        def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
            told.append(cb.name)

    guarded = Keyed(CircuitBreaker(fail_max=1, listeners=[Listener()]).clone, key=first)(Service(world, "a").fn)
    for key in ("a", "b"):
        world.outcome(guarded, key)
    assert told == ["CircuitBreaker[a]"]


def test_every_pipeline_gets_events_of_keys_from_before_and_after_it_was_built(world: World) -> None:
    """Each pipeline emits the events with its own name."""
    keyed = Keyed(lambda: CircuitBreaker(fail_max=1), key=first)
    heard: list[tuple[str, str]] = []
    pipelines = [Pipeline(keyed, name="built first")]
    world.outcome(pipelines[0](Service(world).fn), "early")
    pipelines.append(Pipeline(keyed, name="built later"))
    for pipeline in pipelines:
        pipeline.listen(
            lambda event: (
                heard.append((event.pipeline, event.policy)) if isinstance(event, events.CircuitChanged) else None
            )
        )
    guarded = pipelines[0](Service(world, "early", "late").fn)
    for key in ("early", "late"):
        world.outcome(guarded, key)
    assert sorted(heard) == [
        (pipeline, f"CircuitBreaker[{key}]") for pipeline in ("built first", "built later") for key in ("early", "late")
    ]


# -- by hand --------------------------------------------------------------------------------------------------------


def test_gate_for_a_key_steers_that_key(world: World) -> None:
    """It can be controlled also before its first call."""
    keyed = breakers()
    gate = keyed.gate_for("bad")
    assert isinstance(gate, CircuitBreaker)
    gate.isolate()
    guarded = keyed(Service(world).fn)
    assert isinstance(world.outcome(guarded, "bad").error, CircuitOpen)
    assert world.call(guarded, "good") == "from good"
    assert keyed.gate_for("bad") is gate
    gate.close()
    assert world.call(guarded, "bad") == "from bad"


def test_forgotten_key_begins_anew(world: World) -> None:
    """Its next call is admitted even if its circuit was open."""
    keyed, service = breakers(fail_max=1), Service(world, "a")
    guarded = keyed(service.fn)
    world.outcome(guarded, "a")
    service.down.clear()
    assert isinstance(world.outcome(guarded, "a").error, CircuitOpen)
    assert keyed.forget("a")
    assert not keyed.forget("a")
    assert world.call(guarded, "a") == "from a"


def test_calls_inside_a_key_that_is_forgotten_end_with_their_old_gate(world: World) -> None:
    """They return their permits to the gate that granted them."""
    keyed = Keyed(lambda: Bulkhead(1), key=first)
    old = keyed.gate_for("a")
    inner = keyed(Service(world).fn)

    async def hold(key: str) -> str:
        assert keyed.forget("a")
        return await inner("a")  # has a permit of a new gate

    def hold_def(key: str) -> str:
        assert keyed.forget("a")
        return inner("a")

    assert world.call(keyed(hold if world.is_async else hold_def), "a") == "from a"
    new = keyed.gate_for("a")
    assert new is not old
    assert [gate.snapshot()["in_use"] for gate in (old, new)] == [0, 0]
    assert keyed.snapshot()["in_use"] == 0


def test_snapshot_shows_the_hundred_keys_used_last(world: World) -> None:
    """It also has the number of all keys."""
    keyed = Keyed(lambda: Bulkhead(2), key=first)
    guarded = keyed(Service(world).fn)
    for key in [*range(150), 3]:
        world.call(guarded, key)
    state = keyed.snapshot()
    assert {name: value for name, value in state.items() if name != "gates"} == {
        "keys": 150,
        "max_keys": 1024,
        "idle_seconds": 300.0,
        "in_use": 0,
    }
    assert keys_of(keyed) == ["3", *(str(key) for key in range(149, 50, -1))]
    assert state["gates"]["Bulkhead[3]"] == {"in_use": 0, "max_concurrent": 2, "queued": 0, "queue": 0}


def test_description_says_what_is_kept_for_each_key_and_for_how_long() -> None:
    """It does not have the state of a circuit, since each key has its own."""
    assert Keyed(lambda: Bulkhead(2), key=first, max_keys=9, idle=60).describe() == (
        "Keyed(Bulkhead(2) for each of up to 9 keys, idle 60 s)"
    )
    assert "break 3600 s) for each" in breakers().describe()


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        (["x" * 97 + "a-long-tail", "x" * 97 + "b-long-tail"], None),
        ([("x" * 200, 1), ("x" * 200, 2)], None),
        ([1, "1"], ["Bulkhead[1]", "Bulkhead[1] (2)"]),
    ],
    ids=["long texts", "long tuples", "a number and its text"],
)
def test_keys_that_look_alike_have_names_of_their_own_in_snapshots(keys: list[Any], names: list[str] | None) -> None:
    """No name is longer than a line may be."""
    keyed = Keyed(lambda: Bulkhead(1), key=first)
    for key in keys:
        keyed.gate_for(key)
    shown = list(keyed.snapshot()["gates"])
    assert len(shown) == 2
    assert max(map(len, shown)) <= 100 + len("Bulkhead[]")
    assert names is None or shown == names


# -- what is forgotten ----------------------------------------------------------------------------------------------


def test_least_recently_used_key_makes_room(world: World) -> None:
    """The least recently used key is evicted."""
    keyed = Keyed(lambda: Bulkhead(1), key=first, max_keys=3)
    guarded = keyed(Service(world).fn)
    for key in "abcabad":
        world.call(guarded, key)
    assert keys_of(keyed) == ["d", "a", "b"]
    world.call(guarded, "b")
    world.call(guarded, "e")
    assert keys_of(keyed) == ["e", "b", "d"]


def test_key_in_use_is_not_evicted_by_any_number_of_keys(world: World) -> None:
    """Its permit is taken: a new gate would have a second one."""
    keyed = Keyed(lambda: Bulkhead(1), key=first, max_keys=2, idle=1e-9)
    inner = keyed(Service(world).fn)
    ends: list[Any] = []

    async def hold(key: str) -> None:
        for other in range(10):
            await inner(other)
        try:
            await inner("held")
        except BulkheadFull:
            ends.append("full")

    def hold_def(key: str) -> None:
        for other in range(10):
            inner(other)
        try:
            inner("held")
        except BulkheadFull:
            ends.append("full")

    world.call(keyed(hold if world.is_async else hold_def), "held")
    assert ends == ["full"]
    assert keyed.snapshot()["keys"] <= 3


def test_open_circuit_is_not_evicted_by_any_number_of_keys(world: World) -> None:
    """A new circuit would send calls to a dependency that is known to be dead."""
    keyed, service = breakers(fail_max=1, max_keys=2, idle=1e-9), Service(world, "bad")
    guarded = keyed(service.fn)
    for key in ("bad", *range(10)):
        world.outcome(guarded, key)
    assert isinstance(world.outcome(guarded, "bad").error, CircuitOpen)
    assert keyed.snapshot()["keys"] <= 3


def test_isolated_circuit_is_never_evicted() -> None:
    """An operator isolated it."""
    keyed = Keyed(CircuitBreaker, key=first, max_keys=1, idle=1e-9)
    gate = keyed.gate_for("bad")
    assert isinstance(gate, CircuitBreaker)
    gate.isolate()
    for key in range(10):
        keyed.gate_for(key)
    assert keyed.gate_for("bad") is gate


def test_bucket_that_is_not_full_is_evicted_last(world: World) -> None:
    """Otherwise a caller could get new tokens by using other keys; so keys at rest are evicted first."""
    keyed = Keyed(lambda: RateLimit(1, per=1e9), key=first, max_keys=8)
    guarded = keyed(Service(world).fn)
    for key in range(4):
        world.call(guarded, key)
    for key in range(100, 200):
        keyed.gate_for(key)
    assert all(isinstance(world.outcome(guarded, key).error, RateLimited) for key in range(4))
    assert keyed.snapshot()["keys"] == 8


@pytest.mark.parametrize(
    "factory",
    [lambda: RateLimit(1, per=1e9), lambda: CircuitBreaker(fail_max=1), Bulkhead, AdaptiveLimit],
    ids=["bucket", "open", "bulkhead", "adaptive"],
)
def test_keys_in_any_state_stay_within_max_keys(factory: Callable[[], Gate], world: World) -> None:
    """The bound holds for keys in any state: if none is at rest, the least recently used one is evicted."""
    keyed = Keyed(factory, key=first, max_keys=20)
    guarded = keyed(Service(world, *range(100)).fn)
    for key in range(100):
        world.outcome(guarded, key)
        assert keyed.snapshot()["keys"] <= 20
    assert set(keys_of(keyed)) == {str(key) for key in range(80, 100)}


def test_table_of_keys_in_use_gets_smaller_when_calls_end(world: World) -> None:
    """While calls are inside there may be more keys than `max_keys`, but no more than those calls besides."""
    keyed = Keyed(lambda: RateLimit(1, per=3600), key=first, max_keys=3)
    inner = keyed(Service(world).fn)
    most = 0

    async def hold(key: int) -> None:
        nonlocal most
        if key < 10:
            await guarded(key + 1)
        most = max(most, keyed.snapshot()["keys"])

    def hold_def(key: int) -> None:
        nonlocal most
        if key < 10:
            guarded(key + 1)
        most = max(most, keyed.snapshot()["keys"])

    guarded = keyed(hold if world.is_async else hold_def)
    world.call(guarded, 0)
    assert most == 11
    for key in range(20, 40):
        world.call(inner, key)
    assert keyed.snapshot()["keys"] == 3


@pytest.mark.virtual_time
async def test_queued_call_keeps_its_key() -> None:
    """It gets the permit of the gate for which it waits."""
    keyed = Keyed(lambda: Bulkhead(1, queue=1), key=first, max_keys=1)
    guarded = keyed(take)
    calls = asyncio.gather(guarded("a", 10), guarded("a", 0))
    for key in range(10):
        await guarded(key, 0.25)
    assert keyed.gate_for("a").snapshot()["queued"] == 1
    await calls


async def take(key: Any, seconds: float = 0.0) -> None:
    """A function that takes some time."""
    await asyncio.sleep(seconds)


@pytest.mark.virtual_time
async def test_key_that_was_idle_is_evicted_when_a_new_one_comes() -> None:
    """It is evicted at exactly its idle time, and not before."""
    keyed = Keyed(CircuitBreaker, key=first, idle=10)
    guarded = keyed(take)
    for _ in range(3):
        await guarded("a")
    await asyncio.sleep(9.75)
    await guarded("b")
    assert keys_of(keyed) == ["b", "a"]
    await asyncio.sleep(0.25)
    await guarded("c")
    assert keys_of(keyed) == ["c", "b"]


@pytest.mark.virtual_time
async def test_key_is_idle_from_the_end_of_its_last_call() -> None:
    """The idle time does not count from the begin of the call."""
    keyed = Keyed(CircuitBreaker, key=first, idle=10)
    guarded = keyed(take)
    await guarded("a", 20)
    await guarded("b")
    await asyncio.sleep(9)
    await guarded("c")
    assert keys_of(keyed) == ["c", "b", "a"]


@pytest.mark.virtual_time
async def test_key_is_idle_from_the_moment_in_which_its_last_call_was_cancelled() -> None:
    """A cancellation ends a call, too."""
    keyed = Keyed(CircuitBreaker, key=first, idle=10)
    guarded = keyed(take)
    await guarded("a")
    call = asyncio.ensure_future(guarded("a", 100))
    await asyncio.sleep(20)
    call.cancel()
    await asyncio.sleep(9.75)
    await guarded("b")
    assert keys_of(keyed) == ["b", "a"]
    await asyncio.sleep(0.25)
    await guarded("c")
    assert keys_of(keyed) == ["c", "b"]


@pytest.mark.virtual_time
async def test_key_that_is_looked_at_is_not_idle() -> None:
    """`gate_for` counts as a use: an operator may be about to control it."""
    keyed = Keyed(CircuitBreaker, key=first, idle=10)
    keyed.gate_for("a")
    await asyncio.sleep(9)
    gate = keyed.gate_for("a")
    await asyncio.sleep(9)
    keyed.gate_for("b")
    assert keyed.gate_for("a") is gate


@pytest.mark.virtual_time
async def test_keyed_gate_is_at_rest_when_all_its_gates_are() -> None:
    """So a `Keyed` can be the gate of a key."""
    hosts = breakers()
    assert hosts._at_rest
    call = asyncio.ensure_future(hosts(take)("a", 1))
    await asyncio.sleep(0.5)
    assert not hosts._at_rest
    await call
    assert hosts._at_rest
    hosts.gate_for("b").isolate()  # type: ignore[attr-defined]
    assert not hosts._at_rest


@pytest.mark.virtual_time
async def test_key_without_timed_calls_counts_as_used_until_the_next_new_one() -> None:
    """A count window reads no clock; its keys are kept for longer, never for less."""
    keyed = Keyed(lambda: CircuitBreaker(window_calls=9), key=first, idle=10)
    guarded = keyed(take)
    await guarded("once")
    await guarded("again")
    await guarded("again")
    await asyncio.sleep(10)
    await guarded("b")
    assert keys_of(keyed) == ["b", "again"]
    await asyncio.sleep(9)
    await guarded("c")
    assert keys_of(keyed) == ["c", "b", "again"]
    await asyncio.sleep(1)
    await guarded("d")
    assert keys_of(keyed) == ["d", "c"]


@pytest.mark.virtual_time
async def test_idle_open_circuit_is_kept_until_no_call_has_come_for_its_longest_break() -> None:
    """Then it is evicted: a crawler meets more dead hosts than it can remember."""
    keyed = Keyed(lambda: CircuitBreaker(fail_max=1, break_duration=5, max_break=60), key=first, idle=10)

    async def fail(key: str) -> None:
        raise OSError

    with pytest.raises(OSError):
        await keyed(fail)("dead")
    guarded = keyed(take)
    await asyncio.sleep(64.75)
    await guarded("a")
    assert "dead" in keys_of(keyed)
    await asyncio.sleep(0.25)
    await guarded("b")
    assert "dead" not in keys_of(keyed)


@pytest.mark.virtual_time
async def test_a_new_key_examines_a_fixed_number_of_others() -> None:
    """A call costs the same with any number of keys that are not at rest."""
    looks = 0
    resting = False

    class Restless(Gate):
        facts = Facts(timed=False)

        @property
        def _at_rest(self) -> bool:
            nonlocal looks
            looks += 1
            return resting

        def admit(self, call: Call) -> object:
            return self

        def release(self, ticket: object) -> None:
            pass

    keyed = Keyed(Restless, key=first, max_keys=40)
    guarded = keyed(take)
    for key in range(200):
        before = looks
        await guarded(key)
        assert looks - before == (LOOKS if key >= 40 else 0)
        await guarded(key - key % 2)
    assert keyed.snapshot()["keys"] == 40
    resting = True
    before = looks
    await guarded(200)
    assert looks - before == 1


@pytest.mark.virtual_time
async def test_circuits_may_be_kept_for_each_host_of_each_tenant() -> None:
    """A Keyed can be inside a Keyed; a tenant with an open circuit is not evicted."""
    keyed = Keyed(
        lambda: Keyed(lambda: CircuitBreaker(fail_max=1), key=lambda tenant, host: host),
        key=lambda tenant, host: tenant,
        max_keys=2,
    )

    async def fetch(tenant: str, host: str) -> None:
        if host == "bad":
            raise OSError

    guarded = keyed(fetch)
    with pytest.raises(OSError):
        await guarded("t1", "bad")
    for tenant, host in (("t1", "good"), ("t2", "good"), ("t3", "good")):
        await guarded(tenant, host)
    with pytest.raises(CircuitOpen, match="CircuitBreaker for t1, bad is open"):
        await guarded("t1", "bad")
    assert keyed.snapshot()["in_use"] == 0


def test_twenty_thousand_keys_leave_no_more_than_there_may_be() -> None:
    """The bound holds for gates and for all objects that belong to them."""
    alive: weakref.WeakSet[Gate] = weakref.WeakSet()

    def factory() -> Bulkhead:
        gate = Bulkhead(1)
        alive.add(gate)
        return gate

    keyed = Keyed(factory, key=first, max_keys=100)
    guarded = keyed(lambda key: key)
    for key in range(20_000):
        guarded(key)
    gc.collect()
    assert keyed.snapshot()["keys"] == 100
    assert len(alive) == 101  # with the one that shows what the factory makes


def test_circuits_of_many_keys_leave_nothing_in_a_pipeline_that_gets_their_events() -> None:
    """The channel of a pipeline keeps no gate in memory."""
    alive: weakref.WeakSet[Gate] = weakref.WeakSet()

    def factory() -> CircuitBreaker:
        gate = CircuitBreaker()
        alive.add(gate)
        return gate

    keyed = Keyed(factory, key=first, max_keys=10)
    pipeline = Pipeline(Retry(2), keyed, name="many circuits")
    guarded = pipeline(lambda key: key)
    for key in range(1000):
        guarded(key)
    gc.collect()
    assert len(alive) == 11


# -- cancellation ---------------------------------------------------------------------------------------------------


class Scene:
    """Calls of two keys that wait for each other, for the cancellation driver."""

    starts = (0.0, 0.0, 0.0, 0.125, 0.25, 0.375)

    def __init__(self, factory: Callable[[], Gate]) -> None:
        self.keyed = Keyed(factory, key=first, max_keys=1)
        self.pipeline = Pipeline(self.keyed, Timeout(0.5))
        self.drain = self.pipeline.aclose
        self.guarded = self.pipeline(self.fetch)

    def call(self, number: int) -> Awaitable[None]:
        """The call of this number."""
        return self.guarded(number % 2)

    async def fetch(self, key: int) -> None:
        """The guarded function; one of the keys fails."""
        await asyncio.sleep(0.25)
        if key:
            raise OSError

    def assert_idle(self) -> None:
        """Assert that no call is inside, by the table and by each gate."""
        state = self.keyed.snapshot()
        assert state["in_use"] == 0
        for gate in state["gates"].values():
            assert [gate.get(count, 0) for count in ("in_use", "queued", "probes")] == [0, 0, 0]
        assert self.pipeline.snapshot()["in_flight"] == 0


FACTORIES: dict[str, Callable[[], Gate]] = {
    "bulkhead": lambda: Bulkhead(1),
    "bulkhead with a queue": lambda: Bulkhead(1, queue=2),
    "rate limit": lambda: RateLimit(4, burst=1, max_wait=0.5),
    "breaker": lambda: CircuitBreaker(fail_max=1, break_duration=0.125),
}


@pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)
def test_call_cancelled_at_any_point_leaves_its_key(factory: Callable[[], Gate]) -> None:
    """It is cancelled while it waits, probes or is inside, once and twice."""
    for victim in range(len(Scene.starts)):
        assert cancel_at_every_point(lambda: Scene(factory), victim) >= 1


class TrioScene(Scene):
    """The scene of `Scene` on trio."""

    async def fetch(self, key: int) -> None:
        await trio.sleep(0.25)
        if key:
            raise OSError


@pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)
def test_trio_call_cancelled_at_any_step_leaves_its_key(factory: Callable[[], Gate]) -> None:
    """Trio's cancel scopes cancel it."""
    for victim in range(len(Scene.starts)):
        assert cancel_at_every_step_of_trio(lambda: TrioScene(factory), victim) >= 1


# -- threads and loops ----------------------------------------------------------------------------------------------


@pytest.fixture
def hasty_switches() -> Iterator[None]:
    """Threads switch 500 times as often as usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


class Crowd:
    """Eight threads and four loops that call the guarded function, with one key after another."""

    loops = ("asyncio", "asyncio", "uvloop", "trio")

    def __init__(self, pipeline: Pipeline, keys: int, rounds: int) -> None:
        self.keys, self.rounds = keys, rounds
        self.sync, self.on_loop = pipeline(self.fetch), pipeline(self.fetch_async)
        self.lock = threading.Lock()
        self.calls, self.inside, self.most = Counter[int](), Counter[int](), Counter[int]()
        self.ends: list[str] = []
        self.start = threading.Barrier(8 + len(self.loops))
        self.mistakes: list[BaseException] = []

    def enter(self, key: int) -> None:
        with self.lock:
            self.calls[key] += 1
            self.inside[key] += 1
            self.most[key] = max(self.most[key], self.inside[key])

    def leave(self, key: int) -> None:
        with self.lock:
            self.inside[key] -= 1
        if self.calls[key] % 3 == 0:
            raise OSError

    def fetch(self, key: int) -> None:
        self.enter(key)
        time.sleep(0)
        self.leave(key)

    async def fetch_async(self, key: int) -> None:
        self.enter(key)
        try:
            trio.lowlevel.current_trio_token()
        except RuntimeError:
            await asyncio.sleep(0)
        else:
            await trio.lowlevel.checkpoint()
        self.leave(key)

    def in_thread(self, seed: int) -> None:
        for number in range(self.rounds):
            try:
                self.sync((number * 7 + seed) % self.keys)
            except (OSError, Rejected) as error:
                self.ends.append(type(error).__name__)
            else:
                self.ends.append("done")

    async def in_task(self, seed: int) -> None:
        for number in range(self.rounds):
            try:
                await self.on_loop((number * 5 + seed) % self.keys)
            except (OSError, Rejected) as error:
                self.ends.append(type(error).__name__)
            else:
                self.ends.append("done")

    def in_loop(self, kind: str) -> None:
        async def in_trio() -> None:
            async with trio.open_nursery() as nursery:
                for seed in range(3):
                    nursery.start_soon(self.in_task, seed)

        async def in_asyncio() -> None:
            await asyncio.gather(*map(self.in_task, range(3)))

        if kind == "trio":
            trio.run(in_trio)
        else:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop if kind == "uvloop" else None) as runner:
                runner.run(in_asyncio())

    def work(self, work: Callable[[], object]) -> None:
        try:
            self.start.wait(60)
            work()
        except BaseException as error:
            self.mistakes.append(error)

    def run(self) -> None:
        """Run all threads and loops to their end."""
        works: list[Callable[[], object]] = [lambda seed=seed: self.in_thread(seed) for seed in range(8)]
        works += [lambda kind=kind: self.in_loop(kind) for kind in self.loops]
        threads = [threading.Thread(target=self.work, args=(work,), daemon=True) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        assert self.mistakes == []
        assert len(self.ends) == self.rounds * (8 + 3 * len(self.loops))


@pytest.mark.usefixtures("hasty_switches")
@pytest.mark.parametrize("queue", [0, 1000])
def test_key_in_use_is_never_evicted_by_another_thread(queue: int) -> None:
    """With room for two of six keys, keys are evicted all the time: a key's limit is never exceeded."""
    keyed = Keyed(lambda: Bulkhead(1, queue=queue), key=first, max_keys=2, idle=1e-9)
    crowd = Crowd(Pipeline(keyed), keys=6, rounds=120)
    crowd.run()
    assert crowd.most == dict.fromkeys(range(6), 1)
    assert set(crowd.ends) <= {"done", "OSError", *(["BulkheadFull"] if not queue else [])}
    state = keyed.snapshot()
    assert state["in_use"] == 0
    for gate in state["gates"].values():
        assert (gate["in_use"], gate["queued"]) == (0, 0)


@pytest.mark.usefixtures("hasty_switches")
def test_every_key_has_one_gate_for_all_threads_and_loops() -> None:
    """Many ask for a new key at once: each call is counted once, by one circuit."""
    keyed = Keyed(lambda: CircuitBreaker(failure_rate=1.0, min_calls=10**6, window_calls=10**6), key=first)
    crowd = Crowd(Pipeline(keyed), keys=20, rounds=120)
    crowd.run()
    counted = {name: gate["calls"] for name, gate in keyed.snapshot()["gates"].items()}
    assert counted == {f"CircuitBreaker[{key}]": calls for key, calls in crowd.calls.items()}
    assert keyed.snapshot()["in_use"] == 0


class Slowly:
    """A key that hashes and compares in Python code, in which threads can switch."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __hash__(self) -> int:
        return hash(str(self.number))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slowly) and other.number == self.number

    def __repr__(self) -> str:
        return str(self.number)


def test_key_that_is_forgotten_in_the_very_moment_of_its_use_serves_the_call() -> None:
    """Another thread may run while the key is moved to the end."""

    class Fleeting(Slowly):
        hashed = 0

        def __hash__(self) -> int:
            self.hashed += 1
            if self.hashed == 7:  # when it is moved to the end for its second call
                keyed.forget(self)
            return super().__hash__()

    keyed = Keyed(lambda: Bulkhead(1), key=first)
    guarded = keyed(lambda key: key.number)
    key = Fleeting(1)
    for each in (key, Slowly(2), key):
        assert guarded(each) == each.number
    assert keyed.snapshot()["in_use"] == 0


@pytest.mark.usefixtures("hasty_switches")
@pytest.mark.parametrize("kind", [int, Slowly])
def test_keys_may_be_forgotten_looked_at_and_steered_while_calls_come_from_everywhere(kind: type) -> None:
    """Calls go on, also where keys are compared in Python code."""
    keyed = Keyed(CircuitBreaker, key=kind, max_keys=4)
    crowd = Crowd(Pipeline(keyed), keys=10, rounds=150)
    over = threading.Event()
    mistakes: list[BaseException] = []

    def meddle() -> None:
        number = 0
        try:
            while not over.is_set():
                number += 1
                keyed.forget(kind(number % 10))
                assert keyed.gate_for(kind(number % 7)).name == f"CircuitBreaker[{number % 7}]"
                keyed.snapshot()
                Pipeline(keyed)
        except BaseException as error:
            mistakes.append(error)

    meddler = threading.Thread(target=meddle)
    meddler.start()
    crowd.run()
    over.set()
    meddler.join(60)
    assert mistakes == []
    assert keyed.snapshot()["in_use"] == 0
