"""Calls and answers as in production: pipelines that judge results and take keys from arguments."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import tenacity

from resilient import (
    Bulkhead,
    CircuitBreaker,
    Classifier,
    Fallback,
    Hedge,
    Keyed,
    Pipeline,
    Retry,
    Timeout,
    standard,
)
from resilient.core.policy import Policy
from resilient.faults import Crash, Errors
from resilient.lab.answers import BadAnswer, outcome_of
from resilient.lab.calls import Calls
from resilient.lab.candidates import NONE, Candidate, candidate_from
from resilient.lab.distributions import Constant
from resilient.lab.load import Closed, Poisson, Replay
from resilient.lab.measures import Measures
from resilient.lab.service import Quota, ServicePlan
from resilient.lab.world import CandidateError, Run, Scenario, simulate


@dataclass
class Answer:
    status_code: int
    retry_after: float | None = None


@dataclass
class User:
    tenant: str


def scenario(**more: Any) -> Scenario:
    plan = ServicePlan(service_time=Constant(0.05), workers=20)
    return Scenario(**{"duration": 20, "loads": (Poisson(40),), "clients": 3, "keys": 3, "service": plan} | more)


def outcomes(run: Run) -> dict[str, int]:
    return dict(Measures([run]).outcomes)


SEARCH = Pipeline(Retry(), classify=Classifier(results=lambda answer: answer.status_code >= 500))
TENANTS = Pipeline(Retry(), Keyed(CircuitBreaker, key=lambda user, *rest: user.tenant), Timeout(2))
PORTS = Pipeline(Retry(), Keyed(CircuitBreaker, key=lambda host, port: host), Timeout(2))


def test_results_are_judged_by_the_pipelines_own_classifier() -> None:
    """A result that the classifier judges a failure is retried; a bad last answer is no success."""
    world = scenario(calls=Calls(answer=Answer), faults=(Errors(share=0.5, start=5, end=10),))
    bare, guarded = (Measures([simulate(world, each)]) for each in (NONE, candidate_from("search", SEARCH)))

    assert bare.outcomes.keys() == guarded.outcomes.keys() == {"success", "status 503"}
    assert bare.requests_per_call == 1
    assert guarded.requests_per_call > 1.1
    assert guarded.success > bare.success


@pytest.mark.parametrize(
    ("pipeline", "arguments"),
    [
        (TENANTS, lambda key: (User(key), "orders")),
        (PORTS, lambda key: {"host": key, "port": 80}),
        (PORTS, lambda key: (key, 80)),
    ],
)
def test_keys_are_made_of_the_arguments_of_a_call(pipeline: Pipeline, arguments: Any) -> None:
    """Each of three tenants has its own circuit, and one tenant fails."""
    world = scenario(
        calls=Calls(arguments),
        faults=(Crash(targets=1),),
        service=ServicePlan(service_time=Constant(0.05), servers=3, balance="key"),
    )
    run = simulate(world, candidate_from("theirs", pipeline))

    assert outcomes(run).keys() == {"success", "ConnectionRefusedError", "CircuitOpen"}
    assert 0.6 < Measures([run]).success < 0.73
    assert run.samples[-1].open == pytest.approx(1 / 3)


def test_calls_are_the_same_whoever_looks_at_them() -> None:
    """A pipeline that ignores arguments and answers has the same result for every call with and without them."""
    world = scenario(faults=(Errors(share=0.5, start=5, end=10),), keys=1)
    one, other = (
        simulate(each, candidate_from("standard", standard()))
        for each in (world, replace(world, calls=Calls(lambda key: (User(key),))))
    )

    assert (one.begins, one.ends, one.outcomes, one.requests) == (
        other.begins,
        other.ends,
        other.outcomes,
        other.requests,
    )


def test_answer_may_be_an_exception() -> None:
    """An exception that is returned or raised is the error of the request, and the classifier judges it."""

    class Unavailable(Exception):
        pass

    def raising(status: int, retry_after: float | None) -> str:
        if status >= 500:
            raise Unavailable(status)
        return "fine"

    def returning(status: int, retry_after: float | None) -> Any:
        return Unavailable(status) if status >= 500 else "fine"

    world = scenario(faults=(Errors(share=0.5),))
    for answer in (raising, returning):
        run = simulate(replace(world, calls=Calls(answer=answer)), candidate_from("retry", Retry(2)))
        assert outcomes(run).keys() == {"success", "Unavailable"}
        assert Measures([run]).requests_per_call > 1.3


@pytest.mark.parametrize("error", [SystemExit(3), GeneratorExit(), asyncio.CancelledError(), StopIteration()])
@pytest.mark.parametrize("status", [503, 429])
def test_answer_that_no_call_can_end_with_is_refused(error: BaseException, status: int) -> None:
    """Such an answer is refused when the scenario is made, or when it occurs in a run; before, the call never ended."""
    with pytest.raises(
        (ValueError, CandidateError), match=rf"calls\.answer\({status}, .*\) must be a result or an exc"
    ):
        made = scenario(
            calls=Calls(answer=lambda given, _: error if given == status else "fine"), faults=(Errors(status=status),)
        )
        simulate(made, NONE)


def test_pause_that_a_service_asks_for_reaches_the_answer() -> None:
    """The pause of a quota reaches the answer as a number of seconds."""
    asked: list[float | None] = []

    def answer(status: int, retry_after: float | None) -> Answer:
        asked.append(retry_after)
        return Answer(status)

    plan = ServicePlan(service_time=Constant(0.01), rate_limit=Quota(1, burst=1))
    run = simulate(Scenario(duration=5, loads=(Replay((0.0, 0.5)),), service=plan, calls=Calls(answer=answer)), NONE)

    assert outcomes(run) == {"success": 1, "status 429": 1}
    assert asked[-2:] == [None, 0.5]  # the second comes half a second before there is a token


def test_statuses_are_a_mix() -> None:
    """A share of the successful answers has another status, whose number decides whether the call succeeds."""
    world = scenario(calls=Calls(answer=Answer, statuses={200: 0.8, 404: 0.1, 500: 0.1}))
    run = simulate(world, NONE)

    assert outcomes(run).keys() == {"success", "status 500"}
    assert Measures([run]).success == pytest.approx(0.9, abs=0.04)


@pytest.mark.parametrize("stand_in", ["yesterday's", None, Answer(200)])
def test_what_is_no_answer_of_the_service_stood_in(stand_in: object) -> None:
    """A value of a Fallback counts as a substitute, even if it equals an answer of the service."""
    fallback = Pipeline(Fallback(stand_in), classify=SEARCH.classify)
    world = scenario(calls=Calls(answer=Answer), faults=(Errors(),))

    assert outcomes(simulate(world, candidate_from("fallback", fallback))).keys() == {"stood in"}


def test_copies_of_a_hedge_are_of_one_call() -> None:
    """The requests of both copies count for one call, and the answer of either is the service's."""
    world = scenario(calls=Calls(lambda key: (User(key),), Answer), service=ServicePlan(service_time=Constant(0.3)))
    run = simulate(world, candidate_from("hedge", Hedge(0.1, copies=2)))

    assert outcomes(run).keys() == {"success"}
    assert Measures([run]).requests_per_call == 2


def test_users_who_call_again_and_again_are_told_apart() -> None:
    """Each call of a user has its own arguments and answers, in one task."""
    seen: list[str] = []

    def arguments(key: str) -> tuple[User]:
        seen.append(key)
        return (User(key),)

    world = scenario(loads=(Closed(users=2, think=Constant(0.1)),), calls=Calls(arguments, Answer))
    run = simulate(world, candidate_from("tenants", TENANTS))

    assert outcomes(run) == {"success": len(seen) - 1}  # the first was a try
    assert set(seen) == {"1", "2", "3"}


def test_server_of_a_scenario_with_calls_keys_by_key() -> None:
    """The policies of a server still get the key."""
    plan = ServicePlan(service_time=Constant(1.0), admission=Keyed(lambda: Bulkhead(1), key=lambda key: key))
    world = Scenario(
        duration=9,
        loads=(Replay((0.0, 0.1, 0.2), ("1", "2", "1")),),
        service=plan,
        keys=2,
        calls=Calls(lambda key: (User(key),), Answer),
    )

    assert outcomes(simulate(world, NONE)) == {"success": 2, "status 503": 1}


def test_other_libraries_guard_a_function_with_these_arguments() -> None:
    """A decorator of tenacity can judge the result."""

    def patient() -> Any:
        return tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(3),
            retry=tenacity.retry_if_result(lambda answer: answer.status_code == 503),
        ).wraps

    world = scenario(calls=Calls(lambda key: {"user": User(key)}, Answer), faults=(Errors(share=0.3),))
    measures = Measures([simulate(world, Candidate("tenacity", patient))])

    assert measures.requests_per_call > 1.3
    assert measures.success > 0.95


def test_given_calls_are_made_again_by_the_same_seed() -> None:
    """The same seed gives the same statuses and arguments, call by call."""
    world = scenario(calls=Calls(lambda key: (User(key),), Answer, {200: 0.5, 500: 0.5}))
    runs = [simulate(world, candidate_from("retry", Retry(2)), seed) for seed in (1, 1, 2)]

    assert runs[0].ends == runs[1].ends
    assert runs[0].outcomes == runs[1].outcomes
    assert runs[0].outcomes != runs[2].outcomes


# -- what does not fit ----------------------------------------------------------------------------------------------


def raises_value_error(answer: object) -> bool:
    raise ValueError("no such thing")


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (SEARCH, "its classifier raised AttributeError: 'str' object has no attribute 'status_code' ("),
        (Pipeline(Pipeline(Retry(), classify=SEARCH.classify)), "its classifier raised AttributeError: "),
        (
            Pipeline(Retry(), classify=Classifier(results=lambda answer: answer["code"])),
            "its classifier raised TypeErr",
        ),
        (
            Pipeline(Retry(), classify=Classifier(results=raises_value_error)),
            "its classifier raised ValueError: no such",
        ),
        (
            Pipeline(Retry(), classify=Classifier(results=lambda answer: answer != "fine")),
            "its classifier judges a successful answer a failure; ",
        ),
        (TENANTS, "its classifier, a key or a strategy raised AttributeError: "),
        (PORTS, "its classifier, a key or a strategy raised TypeError: "),
        (Keyed(CircuitBreaker, key=lambda key: int(key) // 0), "its classifier, a key or a strategy raised ZeroDiv"),
        (Hedge(1, accept=lambda answer: answer.version > 3), "its classifier, a key or a strategy raised AttributeErr"),
        (Hedge(1, accept=lambda answer: int(answer) > 3), "its classifier, a key or a strategy raised ValueError: "),
    ],
)
def test_what_cannot_deal_with_keys_is_told_what_to_give(policy: Policy, said: str) -> None:
    """An error of the pipeline's own judgement ends the run in one line, and does not count as a failed call."""
    with pytest.raises(CandidateError) as caught:
        simulate(scenario(keys=1), candidate_from("theirs", policy))

    message = str(caught.value)
    assert message.startswith(f"theirs: {said}")
    assert "calls here have the arguments ('1',) and the answer 'answer': describe" in message
    assert '--calls or in the scenario\'s [calls] (kind = "http"; or arguments and answer' in message
    assert "\n" not in message


def test_judgement_of_failures_that_raises_is_told_as_well() -> None:
    """A classifier that raises for a failure ends the run in one line, at the first failed call."""
    fragile = Pipeline(Retry(), classify=Classifier(ignore=lambda error: error.args[7] == 404))

    with pytest.raises(CandidateError, match=r"^theirs: its classifier, a key or a strategy raised IndexError: "):
        simulate(scenario(faults=(Errors(start=10),)), candidate_from("theirs", fragile))


def test_calls_that_do_not_fit_are_shown() -> None:
    """The message shows the arguments of the calls."""
    with pytest.raises(CandidateError) as caught:
        simulate(scenario(keys=1, calls=Calls(lambda key: (1, [2]), Answer)), candidate_from("theirs", TENANTS))

    assert str(caught.value).startswith(
        "theirs: its classifier, a key or a strategy raised AttributeError: 'int' object "
    )
    assert str(caught.value).endswith(
        "; as the scenario's [calls] says, calls here have the arguments (1, [2]) and the answer "
        "Answer(status_code=200, retry_after=None)"
    )


def test_key_for_which_there_are_no_arguments_ends_the_run() -> None:
    """An error of the user's function is not a failure of the service."""
    arguments = {"1": (User("one"),)}
    calls = Calls(lambda key: arguments[key])

    with pytest.raises(
        CandidateError, match=r"^none: calls.arguments\('[23]'\) raised KeyError: '[23]' \(.*, line \d+\)$"
    ):
        simulate(scenario(calls=calls), NONE)


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        ({"arguments": "app:arguments"}, "arguments must be a plain function or a class, got 'app:arguments'"),
        ({"answer": 7}, "answer must be a plain function or a class, got 7"),
        ({"statuses": [200]}, "statuses must be a mapping of each to its share, got [200]"),
        ({"statuses": {}}, "statuses must have at least one share above 0, got {}"),
        ({"statuses": {200: 0}}, "statuses must have at least one share above 0, got {200: 0}"),
        ({"statuses": {99: 1}}, "statuses must be whole numbers from 200 to 599, got 99"),
        ({"statuses": {200: -1}}, "statuses[200] must be a finite number >= 0, got -1"),
    ],
)
def test_calls_that_make_no_sense_are_refused(calls: dict[str, Any], message: str) -> None:
    """Bad arguments are refused in the constructor, with their value."""
    with pytest.raises((TypeError, ValueError)) as caught:
        Calls(**calls)

    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        (Calls(lambda: ()), "calls.arguments('1') raised TypeError: "),
        (Calls(lambda key: key), "calls.arguments('1') must return a tuple, or a dict of keyword arguments, got '1'"),
        (Calls(answer=lambda status: status), "calls.answer(200, None) raised TypeError: "),
        (Calls(answer=lambda status, pause: SimpleNamespace().text), "calls.answer(200, None) raised AttributeError: "),
        (Calls(answer=lambda status, pause: {200: 1}[status]), None),
        (Calls(answer=lambda status, pause: {}[status]), "calls.answer(200, None) raised KeyError: 200"),
        (
            Calls(answer=lambda status, pause: OSError()),
            "calls.answer(200, None) must be the result of a successful call",
        ),
    ],
)
def test_functions_are_tried_when_a_scenario_is_made(calls: Calls, message: str | None) -> None:
    """A function that fails is refused before the run. An error that it returns for a bad status is an answer."""
    if message is None:
        scenario(calls=calls)
        return
    with pytest.raises(ValueError) as caught:
        scenario(calls=calls)

    assert str(caught.value).startswith(message)


def test_functions_are_tried_with_a_key_that_there_is() -> None:
    """The functions are tried with a key of the trace, if there is one."""
    arguments = {"eu-1": (User("eu"),)}
    load = Replay((0.0,), ("eu-1",))

    assert outcomes(simulate(scenario(loads=(load,), calls=Calls(arguments.__getitem__)), NONE)) == {"success": 1}


def test_errors_with_a_response_are_counted_by_its_status() -> None:
    """An error without a response is counted by its class, even if every attribute exists or reading one fails."""

    class Every(Exception):
        def __getattr__(self, name: str) -> Every:
            return self

    class Shut(Exception):
        @property
        def response(self) -> None:
            raise RuntimeError("no response has been set")

    response = httpx.Response(503)
    missing = httpx.HTTPStatusError("down", request=httpx.Request("GET", "http://x"), response=response)

    found = [outcome_of(error) for error in (missing, BadAnswer(429), Every(), Shut(), ValueError("no"))]
    assert found == ["HTTPStatusError (503)", "status 429", "Every", "Shut", "ValueError"]
