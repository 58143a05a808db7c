"""The errors of a trace as exceptions: originals, or substitutes that are judged alike."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest

from resilient import TimedOut, Verdict
from resilient.core.classify import DEFAULT
from resilient.core.verdict import UNTRUSTED
from resilient.lab import recorded_errors
from resilient.lab.recorded_errors import ErrorClasses, RecordedError
from resilient.observe.evidence import Evidence, class_named, evidence_of, is_findable, lineage, qualified_name
from resilient.observe.trace_records import TracedKind
from tests.core.test_known_errors import MEANINGS, of_grpc, of_httpx


def again(error: Exception) -> Exception:
    """The error that a trace with this one gives."""
    kinds = {
        qualified_name(kind): TracedKind(tuple(lineage(kind)), not is_findable(kind))
        for kind in (type(error), *map(type, getattr(error, "exceptions", ())))
    }
    return ErrorClasses(kinds).error(qualified_name(type(error)), evidence_of(error))


EVERY = [(made, verdict) for library in MEANINGS.values() for made, verdict in library]


@pytest.mark.parametrize(("made", "verdict"), EVERY)
def test_error_of_a_client_is_itself_and_judged_alike(made: Callable[[], Exception], verdict: Verdict) -> None:
    """This holds for a class whose constructor needs more than a message, too."""
    error = again(made())
    assert isinstance(error, type(made()))
    assert type(error).__name__ == type(made()).__name__
    assert DEFAULT.error(error) == verdict


@pytest.mark.parametrize(("made", "verdict"), EVERY)
def test_error_whose_client_is_not_loaded_is_judged_alike(
    made: Callable[[], Exception], verdict: Verdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is judged by its name, the names of its base classes, and its facts."""
    monkeypatch.setattr(recorded_errors, "class_named", lambda name: None if ":" in name else class_named(name))
    error = again(made())
    assert isinstance(error, RecordedError) is (type(made()).__module__ != "builtins")
    assert type(error).__name__ == type(made()).__name__
    assert DEFAULT.error(error) == verdict


class Busy(ConnectionError):
    """An error of the program."""


def test_class_that_is_not_found_stands_below_those_that_are() -> None:
    """A policy that names a base class of it matches."""

    class Local(Busy):
        pass

    error = again(Local("x"))
    assert isinstance(error, Busy)
    assert isinstance(error, RecordedError)
    assert not isinstance(error, Local)
    assert type(error).__qualname__.endswith("<locals>.Local")


def test_class_under_the_name_of_another_is_not_that_other() -> None:
    """The name refers to another class, which is not used."""
    lying = type("ConnectError", (OSError,), {"__module__": "httpx", "__qualname__": "ConnectError"})
    error = again(lying())
    assert isinstance(error, OSError)
    assert not isinstance(error, httpx.ConnectError)
    assert type(error).__name__ == "ConnectError"


def test_nothing_is_imported_because_a_trace_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that exists and is not loaded stays unloaded."""
    monkeypatch.delitem(sys.modules, "this", raising=False)
    made = ErrorClasses({"this:Zen": TracedKind(("antigravity:Error", "OSError"))})
    assert isinstance(made.error("this:Zen"), OSError)
    assert made.is_substitute("this:Zen")
    assert "this" not in sys.modules


@pytest.mark.parametrize(
    "name", ["StopIteration", "SystemExit", "KeyboardInterrupt", "asyncio.exceptions:CancelledError"]
)
def test_what_no_function_may_end_with_is_an_ordinary_error(name: str) -> None:
    """The trace of a stranger cannot end a program."""
    error = ErrorClasses({}).error(name)
    assert isinstance(error, RecordedError)
    assert type(error).__name__ == name.rpartition(":")[2]


def test_group_has_its_errors_again() -> None:
    """Each error of a group is made by itself; a group class with its own constructor becomes Python's own."""

    class Own(ExceptionGroup[Exception]):
        def __new__(cls, *errors: Exception) -> Own:
            return super().__new__(cls, "own", errors)

    response = of_httpx(httpx, 404)
    for error in (ExceptionGroup("x", [Busy(), response]), Own(Busy(), response)):
        made = again(error)
        assert isinstance(made, ExceptionGroup)
        assert [type(each) for each in made.exceptions] == [Busy, httpx.HTTPStatusError]
        assert DEFAULT.error(made) == DEFAULT.error(error)


class Fixed(Exception):
    """An error whose attributes cannot be set."""

    status = property(lambda self: 503)
    retry_after = property(lambda self: 7.0)


def test_attributes_that_cannot_be_set_are_those_of_a_subclass() -> None:
    """The error is an instance of a subclass, and therefore of the class."""
    made = ErrorClasses({}).error(qualified_name(Fixed), Evidence((("status", 404), ("retry_after", 2.0))))
    assert isinstance(made, Fixed)
    assert (made.status, made.retry_after) == (404, 2.0)
    assert type(again(Fixed())) is Fixed


class Broken(Exception):
    """An error whose constructor needs more arguments."""

    def __init__(self, about: int) -> None:
        super().__init__(1 / about)


def test_error_that_cannot_be_made_of_a_message_is_made_without_its_constructor() -> None:
    """Whatever the constructor raises, the error is an instance of the class."""
    assert type(again(Broken(1))) is Broken


def test_code_of_grpc_is_grpcs_own() -> None:
    """Predicates that compare the code work."""
    made: Any = again(of_grpc(grpc.StatusCode.UNAVAILABLE))
    assert made.code() is grpc.StatusCode.UNAVAILABLE


def test_answer_of_an_error_has_status_and_pause() -> None:
    """Predicates find them under the names of the client."""
    made: Any = again(of_httpx(httpx, 429, retry_after="7"))
    assert made.response.status_code == 429
    assert made.response.headers["retry-after"] == "7"


def refused_by_the_server() -> Exception:
    """An error for a server that does not trust the client's certificate, as a TLS alert reports it."""
    error = ssl.SSLError(1, "alert")
    error.reason = "TLSV1_ALERT_UNKNOWN_CA"
    return error


def wrapped() -> Exception:
    """The error of httpx for a server whose certificate is not valid."""
    error = httpx.ConnectError("x")
    error.__cause__ = ssl.SSLCertVerificationError("x")
    return error


@pytest.mark.parametrize("made", [refused_by_the_server, wrapped, ssl.SSLCertVerificationError])
def test_certificate_that_does_not_verify_is_still_the_reason(made: Callable[[], Exception]) -> None:
    """The cause is recorded as a fact, so a replay does not retry either."""
    assert DEFAULT.error(made()) == DEFAULT.error(again(made())) == UNTRUSTED


def test_time_that_went_by_in_queues_is_still_no_evidence() -> None:
    """A TimedOut keeps its flag, so a breaker does not count it."""
    made: Any = again(TimedOut("late", evidence=False))
    assert made.evidence is False


def test_classes_that_do_not_go_together_are_left_out() -> None:
    """A trace may claim anything about its classes."""
    made = ErrorClasses({"a:B": TracedKind(("SyntaxError", "OSError", "UnicodeDecodeError", "c:D"))})
    assert isinstance(made.error("a:B"), RecordedError)


@pytest.mark.parametrize("name", ["calls:CandidateError", "calls:BadAnswer", "server:ServiceError"])
def test_classes_of_the_lab_have_substitutes(name: str) -> None:
    """The world ends a run, or reads a status, for errors of its own classes."""
    made = ErrorClasses({}).error(f"resilient.lab.{name}")
    assert isinstance(made, RecordedError)
    assert type(made).__name__ == name.partition(":")[2]


def test_group_is_no_substitute() -> None:
    """The group class is the original and has its errors; without recorded errors it has a substitute."""
    errors = ErrorClasses({})
    leaves = (("ConnectionResetError", None),)
    made, bare = (errors.error("ExceptionGroup", Evidence(leaves=each)) for each in (leaves, ()))
    assert not errors.is_substitute("ExceptionGroup")
    assert [type(each) for each in made.exceptions] == [ConnectionResetError]  # type: ignore[attr-defined]
    assert [type(each) for each in bare.exceptions] == [RecordedError]  # type: ignore[attr-defined]
