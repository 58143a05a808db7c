"""Replay: the load of a trace comes again, and the service answers as it was recorded."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import importlib
import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import tenacity
from typer.testing import CliRunner, Result

from resilient import Budget, CircuitBreaker, Fallback, Hedge, Keyed, Pipeline, RateLimit, Retry, Timeout
from resilient.cli.app import app
from resilient.http.httpx import AsyncTransport
from resilient.lab.candidates import NONE, candidate_from, shadowed
from resilient.lab.comparison import compared
from resilient.lab.measures import Measures
from resilient.lab.objectives import notes
from resilient.lab.replay import RecordedError, replayed, summary
from resilient.lab.world import CandidateError, Scenario, simulate
from resilient.observe.evidence import Evidence
from resilient.observe.trace import Trace, TracedAttempt, TracedCall, TraceError, read_trace, record_trace
from resilient.testing import run

OUTAGE = (30.0, 40.0)


def traced(*attempts: TracedAttempt, calls: list[float] | None = None, keys: list[str] | None = None) -> Trace:
    """A trace with these attempts, and calls at these times (by default those of the attempts)."""
    moments = [each.begin for each in attempts] if calls is None else calls
    named = keys or [None] * len(moments)
    return Trace(
        "", [TracedCall(at, 0, 1, "success", key=key) for at, key in zip(moments, named, strict=True)], list(attempts)
    )


def lived(trace: Trace, thing: Any = None, seed: int = 1) -> Measures:
    candidate = NONE if thing is None else candidate_from("mine", thing)
    return Measures([simulate(replayed(trace, "trace"), candidate, seed)])


def ends(measures: Measures) -> list[tuple[float, float, str]]:
    """Start, end and outcome of each call, by start."""
    (one,) = measures.runs
    return sorted(
        (begin, end, one.names[outcome]) for begin, end, outcome in zip(one.begins, one.ends, one.outcomes, strict=True)
    )


# -- what comes back -------------------------------------------------------------------------------------------------


def test_calls_come_when_they_came_and_end_as_they_ended() -> None:
    """Exactly, if each call is alone within a second."""
    trace = traced(
        TracedAttempt(0, 0.25, 1),
        TracedAttempt(10, 3, 1, "ConnectionResetError", failed=True),
        TracedAttempt(20, 0.5, 1, "ReadTimeout", failed=True),
        TracedAttempt(30, 0.125, 1, None, failed=True),
    )
    assert ends(lived(trace)) == [
        (0, 0.25, "success"),
        (10, 13, "ConnectionResetError"),
        (20, 20.5, "ReadTimeout"),
        (30, 30.125, "BadResult"),
    ]


def test_errors_of_python_are_themselves_and_others_have_their_names() -> None:
    """Policies that look at types match them."""
    trace = traced(TracedAttempt(0, 0, 1, "ConnectionResetError", failed=True))
    assert ends(lived(trace, Fallback("stale", on=ConnectionError)))[0][2] == "stood in"
    trace = traced(TracedAttempt(0, 0, 1, "ReadTimeout", failed=True))
    assert ends(lived(trace, Fallback("stale", on=ConnectionError)))[0][2] == "ReadTimeout"
    assert ends(lived(trace, Fallback("stale", on=RecordedError)))[0][2] == "stood in"


def test_names_of_errors_are_names_only() -> None:
    """Whatever a file contains, nothing is imported, and each name becomes the name of a class."""
    names = ["os:system", "a\0b", "\ud800", "exit", ""]
    trace = traced(*(TracedAttempt(10 * at, 1, 1, name, failed=True) for at, name in enumerate(names)))
    assert [ending for _, _, ending in ends(lived(trace))][:4] == ["system", "a_b", "_", "exit"]


def test_retry_in_a_replay_meets_what_happened_then() -> None:
    """Its second attempt comes after the outage."""
    trace = traced(TracedAttempt(0, 0, 1, "ConnectionError", failed=True), TracedAttempt(5, 0.5, 1), calls=[0.0])
    assert ends(lived(trace, Retry(attempts=2, wait=1)))[0][2] == "ConnectionError"
    assert ends(lived(trace, Retry(attempts=2, wait=5))) == [(0, 5.5, "success")]


def test_where_nothing_was_tried_the_nearest_say_what_happens() -> None:
    """Outcomes come from the second before a gap, and the second after it."""
    trace = traced(
        TracedAttempt(0, 1, 1),
        TracedAttempt(100, 2, 1),
        TracedAttempt(101.5, 50, 1),
        calls=[float(at) for at in range(99)],
    )
    seconds = {round(end - begin, 6) for begin, end, _ in ends(lived(trace)) if 2 <= begin <= 98}
    assert seconds == {1, 2}


def test_what_comes_after_the_end_fares_as_one_of_the_last_second() -> None:
    """The outcome is not always that of the very last request."""
    attempts = [TracedAttempt(at / 10, 0.01, 1, "OSError" if at == 99 else None, failed=at == 99) for at in range(100)]
    late = traced(*attempts, calls=[0.0, 15.0])
    outcomes = [ends(lived(late, seed=seed))[1][2] for seed in range(20)]
    assert outcomes.count("success") > 10


def test_attempt_that_was_cut_fares_as_one_that_took_longer() -> None:
    """Its recorded duration is only a lower bound."""
    trace = traced(TracedAttempt(0, 2, 1, "CancelledError", cut=True), TracedAttempt(0, 1, 1), TracedAttempt(0, 3, 1))
    seconds = [round(end - begin, 6) for seed in range(20) for begin, end, _ in ends(lived(trace, seed=seed))]
    assert set(seconds) == {1, 3}
    assert seconds.count(3) > seconds.count(1)


def test_attempt_that_was_cut_and_longer_than_all_is_never_answered() -> None:
    """So a longer Timeout does not help."""
    trace = traced(TracedAttempt(0, 2, 1, "CancelledError", cut=True))
    assert ends(lived(trace, Timeout(50))) == [(0, 50, "TimedOut")]
    assert ends(lived(trace)) == [(0, pytest.approx(60.001), "unfinished")]


def test_replay_whose_calls_repeat_without_end_is_given_up() -> None:
    """An immediate error and a retry without a pause would never end, as in a scenario."""
    trace = traced(TracedAttempt(0, 0, 1, "OSError", failed=True))
    endless = candidate_from("endless", Retry(attempts=None, wait=0, stop=tenacity.stop_never))
    with pytest.raises(CandidateError, match="more than 1,000 requests were sent"):
        simulate(replayed(trace, "trace"), endless, most_requests=1_000)


def test_keys_keep_apart_what_was_apart() -> None:
    """One shard failed, the other did not."""
    attempts, moments, keys = [], [], []
    for number in range(200):
        key = ("good", "bad")[number % 2]
        attempts.append(
            TracedAttempt(number / 10, 0.01, 1, "OSError" if key == "bad" else None, failed=key == "bad", key=key)
        )
        moments.append(number / 10)
        keys.append(key)
    trace = traced(*attempts, calls=moments, keys=keys)
    assert lived(trace).success == 0.5
    keyed = Keyed(lambda: CircuitBreaker(fail_max=3, failure_rate=None), key=str)
    outcomes = lived(trace, keyed).outcomes
    assert outcomes["success"] == 100
    assert 3 <= outcomes["OSError"] <= 8  # three, and a probe now and then
    assert outcomes["CircuitOpen"] == 100 - outcomes["OSError"]


def test_bad_result_with_a_status_is_an_answer_of_the_service() -> None:
    """It has the recorded pause; of a result without a status only the pause is known."""
    for facts, name in (
        ((("status", 503), ("retry_after", 2.0)), "ServiceError"),
        ((("status", 200), ("retry_after", 2.0)), "BadResult"),
        ((("retry_after", 2.0),), "BadResult"),
    ):
        trace = traced(
            TracedAttempt(0, 0, 1, None, failed=True, evidence=Evidence(facts)), TracedAttempt(2, 0.5, 1), calls=[0.0]
        )
        assert ends(lived(trace))[0][2] == name
        assert ends(lived(trace, Retry(attempts=2, wait=0))) == [(0, 2.5, "success")]


def test_errors_that_were_ignored_come_again() -> None:
    """The candidate judges them: a 404 is an answer, unless a policy repeats it."""
    evidence = Evidence((("response.status_code", 404),))
    missing = TracedAttempt(0, 0, 1, "httpx:HTTPStatusError", failed=True, ignored=True, evidence=evidence)
    trace = traced(missing)
    assert ends(lived(trace, Retry(attempts=3, wait=1))) == [(0, 0, "HTTPStatusError (404)")]
    assert ends(lived(trace, Retry(attempts=3, wait=1, on=httpx.HTTPStatusError))) == [(0, 2, "HTTPStatusError (404)")]


@pytest.mark.parametrize("name", ["resilient.errors:CircuitOpen", "ModuleNotFoundError", "NotFound"])
def test_refusals_mistakes_and_bare_names_that_were_ignored_are_left_out(name: str) -> None:
    """They say nothing about the service, or their class is unknown."""
    trace = traced(TracedAttempt(0, 0, 1, name, failed=True, ignored=True), TracedAttempt(0, 1, 1))
    assert lived(trace).success == 1


def test_errors_of_the_program_are_not_the_services() -> None:
    """Programming errors are left out of the replay."""
    trace = traced(TracedAttempt(0, 0, 1, "TypeError", failed=True), TracedAttempt(0, 1, 1))
    assert lived(trace).success == 1


def test_lack_of_memory_then_is_none_of_the_services() -> None:
    """A recorded MemoryError is left out, and does not end the replay as a real one does."""
    trace = traced(TracedAttempt(0, 1, 1), TracedAttempt(0.5, 1, 1, "MemoryError", failed=True))
    assert {ending for _, _, ending in ends(lived(trace))} == {"success"}


def test_one_seed_gives_one_result_and_another_one_another() -> None:
    """Results of one seed are equal to the last digit."""
    draw = random.Random(1)
    trace = traced(*(TracedAttempt(at / 50, draw.expovariate(10), 1) for at in range(500)))
    assert ends(lived(trace)) == ends(lived(trace))
    assert ends(lived(trace)) != ends(lived(trace, seed=2))


@pytest.fixture
def recorded(tmp_path: Path) -> Callable[..., Path]:
    """A trace of 2,000 calls with an outage in the middle, in which half of the requests fail."""

    def record(pipeline: Pipeline, name: str = "calls.trace.gz") -> Path:
        draw = random.Random(7)

        @pipeline
        async def get(key: str) -> None:
            now = asyncio.get_running_loop().time()
            if OUTAGE[0] <= now < OUTAGE[1] and draw.random() < 0.5:
                raise ConnectionResetError
            await asyncio.sleep(draw.lognormvariate(-3, 0.7))

        async def one(key: str) -> None:
            try:
                await get(key)
            except Exception:
                pass

        async def main() -> None:
            tasks = []
            for number in range(2000):
                await asyncio.sleep(draw.expovariate(30))
                tasks.append(asyncio.create_task(one(f"eu-{number % 3}")))
            await asyncio.gather(*tasks)

        path = tmp_path / name
        with record_trace(path, pipeline, key=lambda key: key):
            run(main())
        return path

    return record


def test_world_of_a_trace_is_the_world_that_was_recorded(recorded: Any) -> None:
    """Without policies, the replay has the recorded success and latencies, and the outage at its time."""
    trace = read_trace(recorded(Pipeline(Timeout(30))))
    was, again = summary(trace), lived(trace)
    assert again.calls == was["calls"] == 2000
    assert again.success == pytest.approx(was["success"], abs=0.02)
    assert again.latency(0.5) == pytest.approx(was["latency_p50_s"], rel=0.1)
    assert again.latency(0.99) == pytest.approx(was["latency_p99_s"], rel=0.3)
    failures = [begin for begin, _, outcome in ends(again) if outcome != "success"]
    assert OUTAGE[0] - 1 <= min(failures)
    assert max(failures) <= OUTAGE[1] + 1
    retried = lived(trace, Retry(attempts=3, wait=0.5))
    assert retried.success > again.success + 0.03


# -- traces that cannot be replayed ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trace", "pipeline", "words"),
    [
        (Trace(""), None, "t has no calls"),
        (Trace("", [TracedCall(0, 0, 0, "rejected")]), None, "t has no attempts that say something about the service"),
        (
            Trace("", [TracedCall(0, 0, 1, "success", pipeline=name) for name in ("a", "b")]),
            None,
            r"t has calls of several pipelines, a, b: name one with --of",
        ),
        (Trace("", [TracedCall(0, 0, 1, "success", pipeline="a")]), "b", "t has no calls of 'b', but of a"),
        (
            Trace("", [TracedCall(0, 0, 1, "success", pipeline=f"{at:02}\ud800") for at in range(99)]),
            None,
            r"t has calls of several pipelines, '00\\ud800', .*, '09\\ud800', \.\.\.: name one with --of$",
        ),
    ],
)
def test_trace_that_cannot_be_replayed_is_refused(trace: Trace, pipeline: str | None, words: str) -> None:
    """The message has the reason."""
    with pytest.raises(TraceError, match=words):
        replayed(trace, "t", pipeline)


# -- shadowed candidates -----------------------------------------------------------------------------------------------


def test_shadowed_candidate_watches_where_it_can() -> None:
    """Policies without a shadow mode act, shared budgets stay shared, and the original does not change."""
    budget = Budget()
    original = Pipeline(
        Fallback(7),
        Pipeline(Retry(attempts=2, budget=budget), Hedge(1, budget=budget)),
        Keyed(lambda: CircuitBreaker(fail_max=3), key=str),
        RateLimit(5),
        Timeout(2),
    )
    made: Any = shadowed(candidate_from("mine", original)).make()
    fallback, nested, keyed, limit, timeout = made.policies
    assert [each.shadow for each in (*nested.policies, keyed, limit)] == [True] * 4
    assert nested.policies[0].budget is nested.policies[1].facts.budget is not budget
    assert (type(fallback), type(timeout), timeout.facts.time_limit) == (Fallback, Timeout, 2)
    assert not original.policies[3].shadow  # type: ignore[attr-defined]


def test_shadowed_decorator_is_itself() -> None:
    """Decorators of other libraries have no shadow mode."""
    assert shadowed(NONE).make()(len) is len


# -- the command -------------------------------------------------------------------------------------------------------


MODULE = """
from resilient import *
careful = Pipeline(Retry(attempts=3, wait=0.5), CircuitBreaker(failure_rate=0.3, min_calls=20), Timeout(1))
"""


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs `resilient simulate` in a directory with the module."""
    (tmp_path / "replay_app.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, ["simulate", *map(str, arguments)])


def test_command_replays_a_trace(command: Any, recorded: Any, tmp_path: Path) -> None:
    """The recorded measures stand beside the simulated ones; twice the same bytes."""
    path = recorded(Pipeline(Timeout(30), name="users"))
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file in files:
        result = command("--trace", path, "--pipeline", "none", "--pipeline", "replay_app:careful", "--json", file)
        assert result.exit_code == 0, result.output
    assert "as recorded: 2,000 calls, " in result.output
    assert files[0].read_bytes() == files[1].read_bytes()
    data = json.loads(files[0].read_text())
    assert data["recorded"]["calls"] == data["pipelines"]["none"]["calls"] == 2000
    assert data["recorded"]["complete"] is True
    assert list(data["pipelines"]) == ["none", "replay_app:careful"]


ERRORS = """
class Lost(Exception): ...
class Busy(Exception): ...
"""

NAMES = """
import httpx, replay_errors
from resilient import *
typed = Pipeline(Retry(attempts=4, wait=0.5, on=(httpx.TransportError, replay_errors.Busy)), Timeout(5))
judged = Pipeline(Retry(attempts=4, wait=0.5), classify=Classifier(failures=(httpx.TransportError, replay_errors.Busy)))
others = Pipeline(
    Fallback(0, on=(httpx.PoolTimeout, TimedOut)),
    Retry(attempts=4, on=tenacity.retry_if_exception_type(replay_errors.Lost)),
    classify=Classifier(ignore=(KeyError, replay_errors.Busy)),
)
"""


@pytest.fixture
def named(command: Any, tmp_path: Path) -> Iterator[Path]:
    """A trace in which calls fail with an error of httpx, or of the program; their modules may be unloaded."""
    (tmp_path / "replay_errors.py").write_text(ERRORS)
    (tmp_path / "replay_names.py").write_text("import tenacity" + NAMES)
    busy = importlib.import_module("replay_errors").Busy
    pipeline = Pipeline(Timeout(5), name="users")
    draw = random.Random(2)

    @pipeline
    async def get() -> None:
        if draw.random() < 0.3:
            raise draw.choice([httpx.ConnectError("x"), busy("x")])

    async def main() -> None:
        for _ in range(200):
            await asyncio.sleep(draw.expovariate(20))
            try:
                await get()
            except Exception:
                pass

    path = tmp_path / "named.trace.gz"
    with record_trace(path, pipeline):
        run(main())
    sys.modules.pop("replay_errors")
    yield path
    for name in ("replay_errors", "replay_names"):
        sys.modules.pop(name, None)


def test_policies_that_name_classes_meet_them(command: Any, named: Path, tmp_path: Path) -> None:
    """The candidate's own module has loaded the classes; `on=` and classifiers match them."""
    file = tmp_path / "a.json"
    result = command("--trace", named, *pipelines("none", "replay_names:typed", "replay_names:judged"), "--json", file)
    assert result.exit_code == 0, result.output
    assert "known only by name" not in result.output
    assert "of which the trace has none" not in result.output
    data = json.loads(file.read_text())
    found = {name: each["success"] for name, each in data["pipelines"].items()}
    assert found["none"] < 0.8
    assert found["replay_names:typed"] == found["replay_names:judged"] > 0.97
    errors = data["recorded"]["errors"]
    assert {name: each["class"] for name, each in errors.items()} == {
        "httpx:ConnectError": "original",
        "replay_errors:Busy": "original",
    }
    assert sum(each["attempts"] for each in errors.values()) == data["recorded"]["endings"]["failure"]


def test_classes_that_are_not_loaded_are_named(command: Any, named: Path, tmp_path: Path) -> None:
    """They are named in one line and in the data, because options that name them do not match."""
    file = tmp_path / "a.json"
    result = command("--trace", named, *pipelines("none"), "--json", file)
    (note,) = (line for line in result.output.splitlines() if line.startswith("note: "))
    errors = json.loads(file.read_text())["recorded"]["errors"]
    assert errors["replay_errors:Busy"]["class"] == "stand-in"
    assert "known only by name, because their classes are not found here" in note
    assert f"replay_errors:Busy ({errors['replay_errors:Busy']['attempts']})" in note
    assert note[6:] in json.loads(file.read_text())["notes"]


def test_names_that_never_occur_are_told(command: Any, named: Path) -> None:
    """Of policies, strategies and classifiers, except errors that a policy itself may raise."""
    result = command("--trace", named, *pipelines("none", "replay_names:others"))
    assert (
        "note: replay_names:others: ignore= names KeyError and on= names httpx:PoolTimeout, replay_errors:Lost, "
        "of which the trace has none\n"
    ) in result.output


def test_trace_of_an_older_version_says_what_it_lacks(command: Any, named: Path) -> None:
    """Its errors have bare names, which refer to no class."""
    text = gzip.decompress(named.read_bytes()).decode()
    old = named.with_name("old.trace")
    old.write_text(text.replace('"trace":2', '"trace":1').replace("httpx:", "").replace("replay_errors:", ""))
    result = command("--trace", old, *pipelines("replay_names:typed"))
    assert "known only by name, because the trace of an older version has no modules; no on= or" in result.output
    assert "replay_names:typed: on= names httpx:TransportError, replay_errors:Busy, of which" in result.output


def test_predicate_that_looks_for_more_than_was_recorded_is_told(command: Any, named: Path, tmp_path: Path) -> None:
    """The line about its error says what a trace contains."""
    code = "from resilient import *\njudge = Pipeline(Retry(), classify=Classifier(failures=lambda e: e.shard == 1))"
    (tmp_path / "replay_names.py").write_text(code)
    result = command("--trace", named, *pipelines("replay_names:judge"))
    assert result.exit_code == 2
    assert "object has no attribute 'shard'" in result.stderr
    assert "Errors of a trace have no more than their class, statuses, pauses, and codes" in result.stderr
    assert result.stderr.count("\n") == 1


HTTP = """
import httpx
from resilient import *
from resilient.http.httpx import AsyncTransport
bare = AsyncTransport(Pipeline(Timeout(20)))
api = AsyncTransport(Pipeline(Retry(attempts=4, wait=0.1), Timeout(5)))
"""


def test_requests_of_a_transport_are_replayed_under_another(command: Any, tmp_path: Path) -> None:
    """Exceptions are the client's own; failed answers are answers, with their recorded pause."""
    (tmp_path / "replay_names.py").write_text(HTTP)
    draw = random.Random(3)

    def answer(request: httpx.Request) -> httpx.Response:
        if draw.random() < 0.2:
            raise httpx.ConnectError("x", request=request)
        return httpx.Response(503, headers={"retry-after": "3"}) if draw.random() < 0.3 else httpx.Response(200)

    pipeline = Pipeline(Timeout(20), name="api")

    async def main() -> None:
        transport = AsyncTransport(pipeline, transport=httpx.MockTransport(answer))
        async with httpx.AsyncClient(transport=transport) as client:
            for _ in range(200):
                await asyncio.sleep(draw.expovariate(20))
                with contextlib.suppress(httpx.HTTPError):
                    await client.get("http://example.com")

    with record_trace(tmp_path / "http.trace"):
        run(main())
    file = tmp_path / "a.json"
    names = ("replay_names:bare", "replay_names:api")
    result = command("--trace", tmp_path / "http.trace", *pipelines(*names), "--json", file)
    sys.modules.pop("replay_names")
    assert result.exit_code == 0, result.output
    bare, api = (json.loads(file.read_text())["pipelines"][name] for name in names)
    assert bare["outcomes"].keys() == {"success", "status 503", "ConnectError"}
    assert bare["success"] < 0.7
    assert api["success"] > 0.9
    assert api["latency_p99_s"] > 3


def test_traces_of_several_workers_are_replayed_together(command: Any, named: Path, tmp_path: Path) -> None:
    """Each file has its own option."""
    file, other = tmp_path / "a.json", tmp_path / "other.trace.gz"
    other.write_bytes(named.read_bytes())
    result = command("--trace", named, "--trace", other, *pipelines("none"), "--json", file)
    assert result.exit_code == 0, result.output
    assert json.loads(file.read_text())["recorded"]["calls"] == 400
    assert "named.trace.gz and other.trace.gz: 400 recorded calls" in result.output


def pipelines(*names: str) -> list[str]:
    """The options of the command for these pipelines."""
    return [word for name in names for word in ("--pipeline", name)]


def test_command_reports_shadows(command: Any, recorded: Any, tmp_path: Path) -> None:
    """The report is about the trace as recorded, and about a pipeline in shadow mode, which changes no call."""
    path = recorded(Pipeline(Retry(attempts=2, shadow=True, name="patience"), Timeout(30), name="users"))
    file = tmp_path / "a.json"
    result = command("--trace", path, "--shadow", "--pipeline", "replay_app:careful", "--json", file)
    assert result.exit_code == 0, result.output
    data = json.loads(file.read_text())
    seen = data["recorded"]["shadow"]["users"]["policies"]["patience"]
    assert seen["retried"] == data["recorded"]["endings"]["failure"]
    would = data["shadow"]["replay_app:careful"]
    assert would["calls"] == would["requests"] == 2000
    assert would["policies"]["Retry"]["retried"] > 50
    assert would["policies"]["CircuitBreaker"]["refused"] > would["policies"]["CircuitBreaker"]["went_well"] > 0
    assert data["pipelines"]["replay_app:careful"]["requests_per_call"] == 1
    assert "replay_app:careful in shadow mode" in result.output
    assert "  Retry           would have repeated" in result.output


def test_command_reports_shadows_in_a_scenario_too(command: Any, tmp_path: Path) -> None:
    """One report for each pipeline, over all clients."""
    file = tmp_path / "a.json"
    result = command("slow-replica", "--shadow", "--json", file)
    assert result.exit_code == 0, result.output
    data = json.loads(file.read_text())
    assert data["shadow"].keys() == data["pipelines"].keys()
    for name, would in data["shadow"].items():
        assert would["calls"] == data["pipelines"][name]["calls"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "a scenario or --trace FILE must say what to simulate"),
        (["--trace", "nowhere.trace"], "--trace cannot be read: No such file or directory: nowhere.trace"),
        (["--trace", "."], "--trace cannot be read: Is a directory"),
        (["--trace", "replay_app.py"], "replay_app.py, line 1: it must be a JSON object"),
        (["--of", "users"], "a scenario or --trace FILE"),
        (["slow-replica", "--of", "users"], "--of names a pipeline of a trace, and there is no --trace"),
        (["slow-replica", "--trace", "empty.trace"], "--trace replaces the scenario, got also 'slow-replica'"),
        (["--trace", "empty.trace"], "empty.trace has no calls"),
        (
            ["--trace", "empty.trace", "--max-trace-bytes", "5"],
            "empty.trace, line 1: more than 5 bytes of",
        ),
        (["--trace", "empty.trace", "--max-trace-bytes", "0"], "--max-trace-bytes must be from 1 to"),
        (["--trace", "empty.trace", "--of", "users"], "empty.trace has no calls of 'users', but of none"),
    ],
)
def test_command_refuses_what_makes_no_sense(command: Any, tmp_path: Path, arguments: list[str], words: str) -> None:
    """One line, and exit code 2."""
    (tmp_path / "empty.trace").write_text('{"trace": 1}\n')
    result = command(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


def test_scenario_of_a_trace_is_a_scenario() -> None:
    """It has a name, and lasts until its last call."""
    scenario = replayed(traced(TracedAttempt(0, 1, 1), TracedAttempt(7, 1, 1)), "mine")
    assert isinstance(scenario, Scenario)
    assert scenario.name == "mine"
    assert lived(traced(TracedAttempt(0, 1, 1), TracedAttempt(7, 1, 1))).calls == 2


def test_pipelines_that_do_the_same_on_a_trace_are_noted() -> None:
    """The note says that the trace cannot distinguish them."""
    scenario = replayed(traced(TracedAttempt(0, 1, 1)), "trace")
    found = compared(scenario, [candidate_from(name, Timeout(9)) for name in "ab"], seed=1, runs=1)

    assert "b did exactly what a did: this trace does not tell them apart" in notes(scenario, found, ())
