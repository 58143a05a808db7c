"""Faults as data: their descriptions, their plain data, and the values that are refused."""

from __future__ import annotations

import json
import math
import pickle
import random
import re
from dataclasses import FrozenInstanceError
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from resilient import _validation, faults
from resilient.errors import leaves
from resilient.faults import (
    KINDS,
    Crash,
    DrippingBody,
    Errors,
    Fault,
    Latency,
    PacketLoss,
    Partition,
    Reset,
    Results,
    Slowness,
    Stall,
    TruncatedBody,
    fault_from,
    faults_from,
)
from resilient.faults.exceptions import LOST
from resilient.faults.selection import met

SAID: list[tuple[Fault, str]] = [
    (Errors(share=0.3, status=503, targets=2), "30% 503 on server 2"),
    (Errors(error=ConnectionError, targets=(1, 2, 3)), "100% ConnectionError on servers 1, 2 and 3"),
    (Errors(error="concurrent.futures:BrokenExecutor"), "100% concurrent.futures._base:BrokenExecutor"),
    (Errors(share=0.001, targets=("eu", "us")), "0.1% errors on eu and us"),
    (Results(share=0.5, value="secret"), "50% of answers replaced"),
    (Results(call="math:sqrt"), "100% of answers replaced"),
    (Latency(share=0.02, low=0.5, high=3), "2% of answers 0.5-3 s late"),
    (Latency(low=1, high=1), "100% of answers 1 s late"),
    (Slowness(factor=5), "work takes 5 times as long"),
    (Stall(), "no work is begun"),
    (Crash(targets=3), "crash of server 3"),
    (Partition(targets="eu"), "nothing gets through on eu"),
    (PacketLoss(share=0.01), "1% of requests are lost"),
    (Reset(phase="connect"), "100% of connections reset (connect)"),
    (TruncatedBody(share=0.5, keep=10), "50% of bodies break off after 10 bytes"),
    (DrippingBody(piece=10, pause=1), "100% of bodies drip, 10 bytes every 1 s"),
]


def called(value: Any) -> str:
    return getattr(value, "kind", "")


@pytest.mark.parametrize(("fault", "words"), SAID, ids=called)
def test_fault_describes_itself_in_a_few_words(fault: Fault, words: str) -> None:
    """The description has the effect and the targets."""
    assert fault.describe() == words


@pytest.mark.parametrize("fault", [fault for fault, _ in SAID], ids=called)
def test_fault_survives_plain_data(fault: Fault) -> None:
    """An equal fault comes back from JSON and from pickle."""
    assert fault_from(json.loads(json.dumps(fault.as_json()))) == fault
    assert pickle.loads(pickle.dumps(fault)) == fault


def test_every_kind_is_said_here() -> None:
    """Each kind can be read from files."""
    there = {each for each in vars(faults).values() if isinstance(each, type) and issubclass(each, Fault)}
    assert {type(fault) for fault, _ in SAID} == set(KINDS.values()) == there - {Fault}
    assert all(KINDS[fault.kind] is type(fault) for fault, _ in SAID)


def test_plain_data_has_what_is_not_the_default_only() -> None:
    """It is as short as a user would write it."""
    assert Crash().as_json() == {"kind": "crash"}
    assert Errors(share=0.5, start=3, end=4, targets=1, error=OSError).as_json() == {
        "kind": "errors",
        "share": 0.5,
        "start": 3.0,
        "end": 4.0,
        "targets": [1],
        "error": "OSError",
    }


def test_fault_is_on_from_its_start_until_before_its_end() -> None:
    """Without an end it never ends."""
    fault = Stall(start=10, end=20)
    assert [fault.is_on(at) for at in (9.999, 10, 19.999, 20)] == [False, True, True, False]
    assert (fault.until, Stall(start=10).until) == (20, math.inf)
    assert Stall(start=10).is_on(1e9)


@pytest.mark.parametrize(
    ("fault", "words"),
    [(Stall(start=30, end=40.5), "30-40.5 s"), (Stall(start=30), "from 30 s on"), (Stall(), "throughout")],
)
def test_fault_says_when(fault: Fault, words: str) -> None:
    """The text has its times in seconds."""
    assert fault.when() == words


def test_fault_hits_its_targets_or_all() -> None:
    """Targets are numbers of servers, or keys."""
    fault = Crash(targets=[1, "eu"])  # type: ignore[arg-type]  # as files have it
    assert fault.targeted == (1, "eu")
    assert [fault.hits(each) for each in (1, "eu", 2, "us", "1")] == [True, True, False, False, False]
    assert Crash().hits(7)
    assert Crash(targets="eu").targeted == ("eu",)


def test_faults_are_data() -> None:
    """They compare, hash, and are immutable."""
    fault = Errors(share=0.5)
    assert {fault, Errors(share=0.5)} == {fault}
    with pytest.raises(FrozenInstanceError):
        fault.share = 1  # type: ignore[misc]


def test_result_is_the_value_or_what_the_function_makes_of_the_arguments() -> None:
    """The function is given, or named."""
    assert Results(value=[1]).result(7) == [1]
    assert Results().result(7) is None
    assert Results(call="math:sqrt").result(16) == 4


# -- what is refused ------------------------------------------------------------------------------------------------


def test_share_may_be_zero_where_that_makes_sense() -> None:
    """Then the message for a wrong share includes 0."""
    assert [_validation.share("rate", value, zero=True) for value in (0, 0.5, 1)] == [0, 0.5, 1]
    with pytest.raises(ValueError, match=re.escape("rate must be a share from 0 to 1, got -0.1")):
        _validation.share("rate", -0.1, zero=True)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Errors(share=1.5), "share must be a share from 0 to 1, got 1.5"),
        (lambda: Errors(share=math.nan), "share must be a share from 0 to 1, got nan"),
        (lambda: Errors(status=200), "status must be an HTTP status from 400 to 599, got 200"),
        (lambda: Errors(status=503, error=OSError), "error must not be given beside status=503, got 'OSError'"),
        (lambda: Errors(error="NoSuch"), "error must be an exception's class or its name"),
        (lambda: Errors(error="no.such:Error"), "error must be an exception's class or its name"),
        (lambda: Errors(error="int"), "error must be an exception's class or its name"),
        (lambda: Errors(error=KeyboardInterrupt), "error must be an exception's class or its name"),
        (lambda: Errors(error=StopIteration), "error must be an exception's class or its name"),
        (lambda: Results(value=1, call=print), "call must not be given beside value=1, got 'print'"),
        (lambda: Results(call="no.such:function"), "call must be a function or its name"),
        (lambda: Latency(low=2, high=1), "high must be at least low=2, got 1"),
        (lambda: Latency(high=math.inf), "high must be a finite number of seconds >= 0, got inf"),
        (lambda: Slowness(factor=0), "factor must be a finite number > 0, got 0"),
        (lambda: Stall(start=-1), "start must be a finite number of seconds >= 0, got -1"),
        (lambda: Stall(start=5, end=5), "end must be after start=5, got 5"),
        (lambda: Crash(targets=0), "targets must be a whole number >= 1, got 0"),
        (lambda: Crash(targets=" "), "targets must not be empty or blank, got ' '"),
        (lambda: Reset(phase="write"), 'phase must be "connect" or "read", got \'write\''),
        (lambda: TruncatedBody(keep=-1), "keep must be a whole number >= 0, got -1"),
        (lambda: DrippingBody(piece=0), "piece must be a whole number >= 1, got 0"),
    ],
)
def test_impossible_value_is_refused_where_it_is_written(build: Any, message: str) -> None:
    """The message has the argument, the allowed values, and the value."""
    with pytest.raises(ValueError, match=re.escape(message)):
        build()


class Maker:
    """Makes an exception each time it is called."""

    def __call__(self, message: str) -> Exception:
        return OSError(5, message)


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (Maker(), "tests.faults.test_faults:Maker"),
        (partial(Maker.__call__, Maker()), "tests.faults.test_faults:Maker.__call__"),
    ],
)
def test_maker_of_any_shape_is_known_by_a_name(error: Any, name: str) -> None:
    """An object has the name of its class, a partial that of its function."""
    assert Errors(error=error).describe() == f"100% {name}"
    assert Errors(error=error).as_json()["error"] == name
    assert Results(call=error).as_json()["call"] == name


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Errors(share="half"), "share must be a share from 0 to 1, got 'half'"),
        (lambda: Errors(share=True), "share must be a share from 0 to 1, got True"),
        (lambda: Crash(targets=1.5), "targets must be a number of a server, a key, or several of them, got 1.5"),
        (lambda: Crash(targets=(True,)), "targets must be a whole number >= 1, got True"),
        (lambda: Errors(status="503"), "status must be a whole number >= 1, got '503'"),
    ],
)
def test_value_of_a_wrong_type_is_refused_where_it_is_written(build: Any, message: str) -> None:
    """The constructor raises `TypeError`, with the argument and the value."""
    with pytest.raises(TypeError, match=re.escape(message)):
        build()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, f"faults[2].kind must be one of {', '.join(sorted(KINDS))}: it is missing"),
        ({"kind": "outage"}, f"faults[2].kind must be one of {', '.join(sorted(KINDS))}, got 'outage'"),
        ({"kind": ["crash"]}, f"faults[2].kind must be one of {', '.join(sorted(KINDS))}, got ['crash']"),
        ({"kind": "latency"}, "faults[2].high is missing: latency needs it"),
        (
            {"kind": "latency", "high": 1, "hihg": 2},
            "faults[2] has no 'hihg': latency may have end, high, low, share, start, targets; did you mean high?",
        ),
        ({"kind": "errors", "share": 2}, "faults[2].share must be a share from 0 to 1, got 2: 2% is 0.02"),
        ({"kind": "stall", "start": 2, "end": 1}, "faults[2].end must be after start=2, got 1"),
        ("crash", "faults[2] must be a table with a kind, got 'crash'"),
        ({"kind": "crash", "start": "soon"}, "faults[2].start must be a finite number of seconds >= 0, got 'soon'"),
    ],
)
def test_mistake_in_a_file_is_one_line_that_names_the_key(data: Any, message: str) -> None:
    """The line also has what is allowed there."""
    with pytest.raises((TypeError, ValueError)) as caught:
        faults_from([{"kind": "crash"}, {"kind": "stall"}, data])
    assert str(caught.value) == message
    assert caught.value.__cause__ is None


def test_only_kinds_that_make_sense_are_read() -> None:
    """The caller of `fault_from` gives the kinds that are allowed."""
    with pytest.raises(ValueError, match=re.escape("fault.kind must be one of crash, stall, got 'reset'")):
        fault_from({"kind": "reset"}, kinds=[Stall, Crash])


@pytest.mark.parametrize("data", [{"kind": "crash"}, "crash", 7, None])
def test_faults_that_are_no_list_are_refused(data: Any) -> None:
    """A single table is not a list of tables."""
    with pytest.raises(TypeError, match="faults must be a list of tables, got"):
        faults_from(data)


# -- exceptions -----------------------------------------------------------------------------------------------------


class NeedsKeyword(Exception):
    def __init__(self, message: str, *, response: object) -> None:
        super().__init__(message)
        self.response = response


class NeedsTwo(Exception):
    def __init__(self, one: str, two: str) -> None:
        super().__init__(one, two)


class Broken(Exception):
    def __init__(self, message: str) -> None:
        raise ZeroDivisionError("no\nluck")


class Leaves(Exception):
    def __init__(self, message: str) -> None:
        raise SystemExit(3)


class Dumb(Exception):
    def __str__(self) -> str:
        raise RuntimeError


class RaisesDumb(Exception):
    def __init__(self, message: str) -> None:
        raise Dumb


class NoException(Exception):
    def __new__(cls, message: str) -> Any:
        return message


class Stopping(Exception):
    def __new__(cls, message: str) -> Any:
        return StopIteration(message)


class EmptyGroup(ExceptionGroup[Exception]):
    def __new__(cls, message: str) -> Any:
        return super().__new__(cls, message, [])


class ReadsHeaders(Exception):
    """An exception whose `retry_after` is read-only, from a response."""

    @property
    def retry_after(self) -> float | None:
        return None


class Frozen(Exception):
    def __setattr__(self, name: str, value: object) -> None:
        raise FrozenInstanceError(name)


class Outer:
    class Busy(Exception):
        """An exception within another class."""


def pair(message: str) -> ExceptionGroup[Exception]:
    """A function that makes an exception from a message."""
    return ExceptionGroup(message, [OSError(message), ExceptionGroup("inner", [KeyError(message)])])


UNMADE = [
    ("ExceptionGroup", "takes exactly 2 arguments"),
    ("UnicodeDecodeError", "takes exactly 5 arguments"),
    ("httpx:HTTPStatusError", "missing 2 required keyword-only arguments: 'request' and 'response'"),
    ("botocore.exceptions:ClientError", "missing 1 required positional argument: 'operation_name'"),
    ("botocore.exceptions:EndpointConnectionError", "takes 1 positional argument but 2 were given"),
    ("json:JSONDecodeError", "missing 2 required positional arguments: 'doc' and 'pos'"),
    (NeedsKeyword, "missing 1 required keyword-only argument: 'response'"),
    (NeedsTwo, "missing 1 required positional argument: 'two'"),
    (Broken, "ZeroDivisionError: no luck"),
    (Leaves, "SystemExit: 3"),
    (RaisesDumb, "Dumb"),
    (NoException, "it makes a str"),
    (Stopping, "it makes a StopIteration"),
    (EmptyGroup, "must be a non-empty sequence"),
    (lambda message: None, "it makes a NoneType"),
    (lambda message: KeyboardInterrupt(), "it makes a KeyboardInterrupt"),
    (lambda *, message: OSError(message), "takes 0 positional arguments but 1 was given"),
]


@pytest.mark.parametrize(("error", "why"), UNMADE, ids=str)
def test_exception_that_cannot_be_made_of_a_message_is_refused_in_one_line(error: Any, why: str) -> None:
    """The constructor or the file's reader raises, with the reason, and not a run that has begun."""
    with pytest.raises(ValueError) as caught:
        faults_from([{"kind": "errors", "error": error}])
    said = str(caught.value)
    assert said.startswith("faults[0].error must be an exception that is made of a message, or a function that makes")
    assert why in said
    assert "\n" not in said


@pytest.mark.parametrize(
    "error",
    [
        *("ConnectionError", "OSError", "KeyError", "TypeError", "httpx:ConnectError", "httpx2:ReadTimeout"),
        *("asyncpg:PostgresConnectionError", "psycopg:OperationalError", "redis:ConnectionError", "grpc:RpcError"),
        *("requests:ConnectionError", "aiohttp:ClientConnectionError", Outer.Busy, pair),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of grpc's generated modules
def test_exception_is_made_of_what_happens_anew_for_each_request(error: Any) -> None:
    """Each request gets a new exception, of any type, with the pause; files can name the type."""
    fault = Errors(error=error, retry_after=2.5)
    first, second = fault.failure(), fault.failure()
    assert type(first) is type(second)
    assert first is not second
    assert "injected by chaos: 100% " in str(first.args[0])
    assert {getattr(each, "retry_after", None) for each in leaves(first)} == {2.5}
    assert fault_from(fault.as_json()) == fault


@pytest.mark.parametrize("error", [ReadsHeaders, Frozen])
def test_pause_that_an_exception_cannot_carry_is_refused(error: Any) -> None:
    """Otherwise it would not reach the pipeline."""
    Errors(error=error)
    with pytest.raises(ValueError) as caught:
        Errors(error=error, retry_after=5)
    assert str(caught.value) == (
        f"retry_after must be left out beside error='{__name__}:{error.__name__}', got 5: "
        f"a retry_after of a {error.__name__} cannot be set"
    )


def test_pause_of_more_than_a_year_is_refused() -> None:
    """A client ignores it, or in a header reads it as a point in time."""
    with pytest.raises(
        ValueError, match=re.escape("retry_after must be at most 31622400 seconds (a year), got 1000000000.0")
    ):
        Errors(retry_after=1e9)


def test_answer_has_the_pause_in_a_header_without_an_exponent() -> None:
    """The default status is 503."""
    assert Errors(retry_after=2.5).answer == (503, {"retry-after": "2.5"})
    assert Errors(status=429, retry_after=1_500_000).answer == (429, {"retry-after": "1500000"})
    assert Errors(status=500).answer == (500, {})


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("httpx.ConnectError", "got 'httpx.ConnectError': write \"httpx:ConnectError\""),
        (OSError("full"), "got OSError('full'): write OSError"),
        (BaseExceptionGroup, "got <class 'BaseExceptionGroup'>"),
        ("asyncio:CancelledError", "got 'asyncio:CancelledError'"),
        ("..relative:Error", "error must be something that can be imported, got '..relative:Error': TypeError"),
        ("json:", "got 'json:'"),
    ],
)
def test_name_that_means_no_exception_is_refused_with_what_to_write(error: Any, message: str) -> None:
    """The message has the right form, if it can be known."""
    with pytest.raises(ValueError) as caught:
        Errors(error=error)
    assert message in str(caught.value)


@pytest.mark.parametrize("body", ["1 / 0", "import no_such_module", "raise SystemExit(3)", "def broken(:"])
def test_module_that_cannot_be_imported_is_one_line(body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line has the error of the import, also where a function is named."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "unimportable_faults.py").write_text(body)
    for build in (lambda name: Errors(error=name), lambda name: Results(call=name)):
        with pytest.raises(ValueError, match="must be something that can be imported, got 'unimportable_faults:it': "):
            build("unimportable_faults:it")


# -- which faults a request meets -----------------------------------------------------------------------------------


def test_stalls_at_a_time_end_with_the_later_one() -> None:
    """Stalls do not add up; latencies do."""
    faults = [Stall(end=4), Stall(end=10), Latency(low=1, high=1), Stall(end=6), Latency(low=2, high=2)]
    assert [delay for _, delay in met(faults, 1.0, lambda fault: True, random.Random(1))] == [3, 6, 1, 0, 2]


def test_silence_ends_when_a_kernel_gives_up() -> None:
    """A request without an answer fails after 15 minutes."""
    silent = [Partition(), PacketLoss(share=1), Stall()]
    assert [delay for _, delay in met(silent, 1.0, lambda fault: True, random.Random(1))] == [LOST] * 3
