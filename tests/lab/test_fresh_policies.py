"""A dry run has no effects on production: of the user's code only what judges runs, and the rest is counted."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import types
import typing
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pybreaker
import pytest
import tenacity
import tenacity.asyncio

import resilient
from resilient import (
    AdaptiveLimit,
    Budget,
    Bulkhead,
    Chaos,
    CircuitBreaker,
    Classifier,
    Fallback,
    Hedge,
    Keyed,
    Pipeline,
    RateLimit,
    Retry,
    Timeout,
    events,
    registry,
)
from resilient.core.policy import Policy, Wrap
from resilient.core.priority import Priority
from resilient.explain import explain
from resilient.faults import Crash, Errors, Fault, Latency, Results
from resilient.lab.candidates import Candidate, candidate_from, shadowed
from resilient.lab.load import Burst
from resilient.lab.service import ServicePlan
from resilient.lab.world import Run, Scenario, simulate
from resilient.limiters import Vegas
from resilient.policies.hedge.delay import quantile
from resilient.policies.retry.backoff import FullJitter

CALLS = 200


class TouchedError(BaseException):
    """Code of production with effects was called; nothing catches this error."""


def touch(*args: Any, **kwargs: Any) -> Any:
    """Stands for code that pages people, writes a metric or calls a replica."""
    raise TouchedError


async def touch_later(*args: Any, **kwargs: Any) -> Any:
    """`touch` as a coroutine function."""
    raise TouchedError


class Pager(pybreaker.CircuitBreakerListener):
    """A listener that pages people when a circuit opens."""

    def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
        raise TouchedError


class Redis(pybreaker.CircuitMemoryStorage):
    """A storage that does I/O in every method."""

    def __init__(self) -> None:
        pass

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__"):
            return super().__getattribute__(name)
        raise TouchedError


def tried(thing: Any, *, faults: tuple[Fault, ...] = (Errors(),), run_hooks: bool = False, **service: Any) -> Run:
    """A run of a candidate, or of an object with policies, with a service that fails."""
    candidate = thing if isinstance(thing, Candidate) else candidate_from("tried", thing)
    scenario = Scenario(
        duration=20, loads=(Burst(CALLS, spread=20.0),), clients=2, faults=faults, service=ServicePlan(**service)
    )
    return simulate(scenario, candidate, seed=3, run_hooks=run_hooks)


# -- which arguments are what ---------------------------------------------------------------------------------------

DATA = (bool, int, float, str, type(None), typing.Any, Budget, FullJitter, Policy, Priority, quantile)
"""Types of arguments that run no code of the user's. (`Fallback` returns its value unchanged.)"""


def policies_of_the_library() -> Iterator[type[Policy]]:
    """Every policy class that a pipeline can have."""
    for module in pkgutil.walk_packages(resilient.__path__, "resilient."):
        if not module.name.startswith(("resilient.demo", "resilient.__main__")):
            importlib.import_module(module.name)
    waiting = [Policy]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if kind.__module__.startswith(("resilient.policies.", "resilient.pipeline", "resilient.http.")):
            yield kind


def is_data(annotation: Any) -> bool:
    """Whether an argument of this type can neither run nor do I/O."""
    if annotation in DATA or typing.get_origin(annotation) is typing.Literal:
        return True
    parts = [part for part in typing.get_args(annotation) if part is not Ellipsis]
    holds_parts = typing.get_origin(annotation) in (types.UnionType, typing.Union, tuple, Sequence, Mapping)
    return holds_parts and bool(parts) and all(map(is_data, parts))


def test_every_argument_that_may_be_code_is_judgement_or_effect() -> None:
    """A policy declares each argument that may be code as one or the other: a dry run calls the first kind only."""
    found, said = {}, {}
    for kind in policies_of_the_library():
        hints = typing.get_type_hints(kind.__init__)
        arguments = [*inspect.signature(kind.__init__).parameters][1:]
        found[kind] = {argument for argument in arguments if not is_data(hints.get(argument, typing.Any))}
        said[kind] = kind._judgements | kind._effects
        assert not kind._judgements & kind._effects

    assert found == said
    assert found[Retry]
    assert found[Pipeline]


# -- what does not run ----------------------------------------------------------------------------------------------

ACTING = [
    (lambda: Fallback(call=touch), "Fallback(call=touch)"),
    (lambda: Fallback(call=touch_later), "Fallback(call=touch_later)"),
    (lambda: Retry(2, before=touch), "Retry(before=touch)"),
    (lambda: Retry(2, after=touch_later), "Retry(after=touch_later)"),
    (lambda: Retry(2, before_sleep=touch), "Retry(before_sleep=touch)"),
    (lambda: CircuitBreaker(fail_max=2, listeners=[Pager()]), "CircuitBreaker(listeners=Pager.state_change)"),
    (lambda: CircuitBreaker(fail_max=2, state_storage=Redis()), "CircuitBreaker(state_storage=Redis)"),
    (lambda: Chaos(Crash(), enabled=touch), "Chaos(enabled=touch)"),
    (lambda: Chaos(Results(call=touch), enabled=True, halt_rate=None), "Chaos(faults=touch)"),
]


@pytest.mark.parametrize(("make", "what"), ACTING, ids=[what for _, what in ACTING])
def test_what_would_do_something_is_counted_instead(make: Callable[[], Policy], what: str) -> None:
    """Effects are counted in a single policy, a pipeline, a `Keyed`, a pipeline from a function, and in shadow mode."""
    alone = tried(make())
    made = tried(lambda: Pipeline(Timeout(9), make()))

    assert alone.not_run.keys() == made.not_run.keys() == {what}
    assert alone.not_run[what] > 1
    assert len(alone.begins) == CALLS
    assert tried(shadowed(candidate_from("shadow", make()))).not_run.keys() <= {what}


def test_counts_are_how_often_it_would_have_run() -> None:
    """The same run with hooks calls them exactly as often as the dry run counts."""
    called: Counter[str] = Counter()

    class Counting(pybreaker.CircuitBreakerListener):
        def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
            called["CircuitBreaker(listeners=" + Counting.__qualname__ + ".state_change)"] += 1

    def hook(state: tenacity.RetryCallState) -> None:
        called[f"Retry(before_sleep={hook.__qualname__})"] += 1

    def answer(error: Exception | None, key: str) -> str:
        called[f"Fallback(call={answer.__qualname__})"] += 1
        return "from the replica"

    pipeline = Pipeline(
        Fallback(call=answer),
        Retry(3, before_sleep=hook, wait=0.1),
        CircuitBreaker(fail_max=5, break_duration=1, listeners=[Counting()]),
    )
    counted = tried(pipeline, faults=(Errors(end=10, share=0.8),))
    assert not called
    run = tried(pipeline, faults=(Errors(end=10, share=0.8),), run_hooks=True)

    assert counted.not_run == called
    assert len(called) == 3
    assert not run.not_run
    assert (run.outcomes, run.sent) == (counted.outcomes, counted.sent)


def test_storage_is_never_shared_with_a_dry_run() -> None:
    """Even with hooks, a scenario must not open the circuit of production."""
    run = tried(CircuitBreaker(fail_max=2, state_storage=Redis()), run_hooks=True)

    assert run.not_run["CircuitBreaker(state_storage=Redis)"] > 1


def test_listeners_that_were_added_later_are_counted_too() -> None:
    """And exceptions that were excluded later are excluded in a dry run, because that is judgement."""
    breaker = CircuitBreaker(fail_max=2)
    breaker.add_listener(Pager())
    excluding = CircuitBreaker(fail_max=2)
    excluding.pybreaker.add_excluded_exception(ConnectionError)

    assert tried(breaker).not_run["CircuitBreaker(listeners=Pager.state_change)"] > 1
    assert len(tried(breaker, faults=(Errors(error="ConnectionError"),)).sent) < CALLS
    assert len(tried(excluding, faults=(Errors(error="ConnectionError"),)).sent) == CALLS


def test_listeners_of_a_pipeline_and_of_all_hear_nothing() -> None:
    """Listeners are counted, including those of a nested pipeline; with hooks they are called."""
    inner = Pipeline(Retry(2, wait=0.1))
    heard: list[Any] = []

    def everywhere(event: Any) -> None:
        heard.append(event)

    def own(event: Any) -> None:
        heard.append(event)

    inner.listen(own)
    stop = events.listen(everywhere, events.CallEnded)
    try:
        counted = tried(Pipeline(Timeout(9), inner, name="users"))
        by_hand = tried(Candidate("by hand", lambda: Pipeline(Retry(2), name="users")))
        assert not heard
        run = tried(Pipeline(Timeout(9), inner), run_hooks=True)
    finally:
        stop()

    assert counted.not_run.keys() == {f"listen({own.__qualname__})", f"listen({everywhere.__qualname__})"}
    assert counted.not_run.total() == len(heard) > CALLS
    assert not run.not_run
    assert not by_hand.not_run


def test_registry_keeps_production(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry has no pipeline of a dry run, under any name."""
    production = Pipeline(Retry(2), name="users")

    tried(production)
    tried(lambda: Pipeline(Retry(2), name="users"))
    tried(Candidate("by hand", lambda: Pipeline(Retry(2), name="users")))

    assert registry.pipeline("users") is production
    assert production.snapshot()["policies"][0]["retried"] == 0


def test_factory_of_a_keyed_is_not_called_again() -> None:
    """Its gates are made like the first one, and the effects of these gates are counted too."""
    made: list[int] = []

    def make() -> CircuitBreaker:
        made.append(1)
        return CircuitBreaker(fail_max=2, listeners=[Pager()])

    run = tried(Keyed(make, key=lambda key: key))

    assert len(made) == 1
    assert len(run.sent) < CALLS
    assert run.not_run["CircuitBreaker(listeners=Pager.state_change)"] > 1


def test_chaos_that_is_on_acts_by_the_seed_of_the_run() -> None:
    """A `Chaos` has its own state: the experiment of production does not begin."""
    chaos = Chaos(Latency(share=0.5, high=1.0), enabled=True)
    one, other = (tried(chaos, faults=()) for _ in range(2))

    assert one.ends == other.ends
    assert max(end - begin for begin, end in zip(one.begins, one.ends, strict=True)) > 0.5
    assert chaos.experiment.began is None
    assert not chaos.experiment.injected


def test_admission_touches_nothing_either() -> None:
    """Policies in front of a server have no effects, even after the server has crashed."""
    gate = CircuitBreaker(fail_max=2, listeners=[Pager()])
    admission = Pipeline(Fallback(call=touch), Retry(2, before_sleep=touch), gate, name="server")
    run = tried(Timeout(5), faults=(Errors(share=0.9), Crash(start=5, end=6)), admission=admission)

    assert run.not_run.keys() == {
        "CircuitBreaker(listeners=Pager.state_change)",
        "Fallback(call=touch)",
        "Retry(before_sleep=touch)",
    }
    assert gate.state == "closed"
    with pytest.raises(KeyError):
        registry.pipeline("nothing of the kind")
    assert registry.pipeline("server") is admission


# -- what runs ------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::resilient.errors.PipelineWarning")
def test_judgement_runs() -> None:
    """Classifiers, predicates, key functions, priorities, rules of limits and delays run."""
    asked: set[str] = set()

    def ask(name: str, answer: Any) -> Callable[..., Any]:
        def asked_for(*args: Any) -> Any:
            asked.add(name)
            return answer

        return asked_for

    pipeline = Pipeline(
        Fallback(None, on=ask("fallback on", True)),
        Keyed(lambda: RateLimit(1000), key=ask("key", 1)),
        AdaptiveLimit(limiter=ask("limiter", Vegas()), priority=ask("priority", "normal")),
        Retry(3, on=ask("retry on", True), wait=ask("wait", 0.1), stop=ask("stop", False)),
        Hedge(quantile(0.9), key=ask("hedge key", 1), accept=ask("accept", True)),
        classify=Classifier(failures=ask("failures", True), results=ask("results", False)),
    )
    run = tried(pipeline, faults=(Errors(share=0.5),))

    assert asked == {
        *("fallback on", "key", "limiter", "priority", "retry on", "wait", "stop"),
        *("hedge key", "accept", "failures", "results"),
    }
    assert not run.not_run


def test_async_judgement_is_awaited() -> None:
    """An asynchronous strategy of tenacity waits in virtual time."""

    async def worth_it(error: BaseException) -> bool:
        return isinstance(error, ConnectionError)

    async def soon(state: tenacity.RetryCallState) -> float:
        return 0.5

    strategy = tenacity.asyncio.retry_if_exception(worth_it)
    run = tried(Retry(3, on=strategy, wait=soon, before_sleep=touch_later), faults=(Errors(error="ConnectionError"),))

    assert len(run.sent) == 3 * CALLS
    assert run.not_run == {"Retry(before_sleep=touch_later)": 2 * CALLS}
    assert len(tried(Retry(3, on=strategy, wait=soon), faults=(Errors(error="OSError"),)).sent) == CALLS


class Own(Wrap, judgements=("decide",), effects=("client",)):
    """A policy of a user's own, with one callable of each kind."""

    def __init__(
        self, decide: Callable[[], bool], client: Any, *notify: Callable[[], None], error: type[Exception] = OSError
    ):
        super().__init__()
        self.decide, self.client, self.notify, self.error = decide, client, notify, error

    async def run(self, call: Any, inner: Any, scope: Any) -> Any:
        if self.decide():
            raise self.error
        self.client()
        for each in self.notify:
            each()
        return await inner(call)


def test_callables_of_a_policy_of_ones_own_are_counted_unless_it_judges_by_them() -> None:
    """The policy names its judging arguments as `judgements`; classes are not effects."""
    run = tried(Own(lambda: False, touch, touch, print), faults=())

    assert run.not_run == {"Own(client=touch)": CALLS, "Own(notify=touch)": CALLS, "Own(notify=print)": CALLS}
    assert not tried(Own(lambda: True, touch)).sent


class OurRetry(Retry):
    """A Retry with its own hook, and everything else that a Retry can have."""

    def __init__(self, **options: Any) -> None:
        super().__init__(2, before_sleep=touch, **options)


class OurBreaker(CircuitBreaker):
    """A breaker that always pages, and shares its state."""

    def __init__(self, storage: Any = None) -> None:
        super().__init__(fail_max=2, listeners=[Pager()], state_storage=storage or Redis())


def test_what_a_subclass_gives_itself_is_counted_too() -> None:
    """Hooks that a subclass adds in its constructor, and those that it passes on, are counted."""
    assert tried(OurRetry(after=touch, wait=0.1)).not_run == {
        "OurRetry(after=touch)": 2 * CALLS,  # after each attempt that failed
        "OurRetry(before_sleep=touch)": CALLS,
    }
    for breaker, argument in ((OurBreaker(), "state_storage"), (OurBreaker(Redis()), "storage")):
        assert tried(breaker).not_run.keys() == {
            "OurBreaker(listeners=Pager.state_change)",
            f"OurBreaker({argument}=Redis)",
        }


@pytest.mark.parametrize("share", [Candidate, candidate_from])
def test_policies_that_are_made_meanwhile_do_nothing_either(share: Any) -> None:
    """Policies made by a hand-made candidate, or inside a decorator, have no effects."""

    def decorator() -> Any:
        def decorate(function: Any) -> Any:
            return Fallback(call=touch)(Retry(2, before_sleep=touch, wait=0.1)(function))

        return decorate

    run = tried(share("meanwhile", decorator))

    assert run.not_run == {"Fallback(call=touch)": CALLS, "Retry(before_sleep=touch)": CALLS}


# -- explain --------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::resilient.errors.PipelineWarning")
def test_explain_calls_nothing_that_does_something() -> None:
    """`explain` calls only what judges, in the pipeline and in the one that it is behind."""
    parts = [make() for make, _ in ACTING]
    for part in parts:
        explanation = explain(part, behind=Pipeline(*parts[:6]), is_async=not isinstance(part, Chaos))
        assert str(explanation)
        assert explanation.data()
        assert explanation.mermaid()


@pytest.mark.filterwarnings("ignore::resilient.errors.PipelineWarning")
def test_fresh_policies_have_the_settings_of_their_pattern() -> None:
    """Fresh policies have all settings of the original, including the keys by which a transport finds its gates."""
    budget = Budget(0.3)
    by_key = Keyed(CircuitBreaker, key=len)._found_by(str.lower)
    hedge = Hedge(quantile(0.5), budget=budget)._by(len, 7)._found_by(str.lower)
    pattern = Pipeline(
        *(Timeout(9), Retry(stop=tenacity.stop_after_attempt(7), budget=budget), by_key, hedge),
        *(Bulkhead(5, queue=7), Chaos(Latency(high=1.0), Crash(start=5), enabled=False, seed=3), RateLimit(7)),
    )
    made = candidate_from("pattern", pattern).make()

    assert isinstance(made, Pipeline)
    assert made.describe() == pattern.describe()
    assert made.policies[2]._key is made.policies[3]._key is str.lower  # type: ignore[attr-defined]
    assert made.policies[1].budget is made.policies[3].budget is not budget


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
def test_fallback_under_a_client_is_counted_and_substituted(library: str) -> None:
    """The substitute is a response, which is all that a client accepts; the Fallback's own listeners and hooks are
    counted too."""
    ours = importlib.import_module(f"resilient.http.{library}")
    breaker = CircuitBreaker(fail_max=2, listeners=[Pager()])
    production = Pipeline(Fallback(call=touch), Retry(2, before_sleep=touch, wait=0.1), breaker, name=f"of {library}")
    production.listen(touch)
    client = ours.AsyncClient(production)
    run = tried(client)

    assert run.not_run.keys() == {
        "CircuitBreaker(listeners=Pager.state_change)",
        "Fallback(call=touch)",
        "Retry(before_sleep=touch)",
        "listen(touch)",
    }
    assert run.names[run.outcomes[-1]] == "stood in"
    assert registry.pipeline(f"of {library}") is client._transport.pipeline
