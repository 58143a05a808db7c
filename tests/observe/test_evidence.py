"""What a trace keeps of errors: names that lead to their classes, and facts that are no secrets."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import httpx
import pytest

from resilient import TimedOut
from resilient.observe.evidence import (
    Evidence,
    as_json,
    class_named,
    evidence_from,
    evidence_of,
    is_findable,
    lineage,
    qualified_name,
)
from tests.core.test_known_errors import MEANINGS
from tests.core.test_odd_exceptions import ODD

T = TypeVar("T")


class Outer:
    class Inner(Exception):
        """A class of errors inside a class."""


class Typed(OSError, Generic[T]):
    """A generic class: its instances are of the class itself."""


class Odd(type):
    """A metaclass that knows better what its classes are called."""

    def __getattribute__(cls, name: str) -> Any:
        if name in ("__module__", "__qualname__"):
            raise RuntimeError(name)
        return super().__getattribute__(name)


class Masked(Exception, metaclass=Odd):
    """An exception whose class lies about its module and its name."""


def local() -> type[Exception]:
    class Local(ConnectionError):
        pass

    return Local


def lying(module: Any, name: str) -> type[Exception]:
    return type(name, (OSError,), {"__module__": module, "__qualname__": name})


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (OSError, "OSError"),
        (httpx.ConnectError, "httpx:ConnectError"),
        (Outer.Inner, f"{__name__}:Outer.Inner"),
        (type(Typed[int]()), f"{__name__}:Typed"),
        (Masked, f"{__name__}:Masked"),
    ],
)
def test_name_leads_to_the_class(kind: type[Exception], name: str) -> None:
    """With its module; Python's own have none."""
    assert qualified_name(kind) == name
    assert class_named(name) is kind
    assert is_findable(kind)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (local(), f"{__name__}:local.<locals>.Local"),
        (lying("httpx", "ConnectError"), "httpx:ConnectError"),
        (lying("builtins", "OSError"), "OSError"),
        (lying("nowhere", "Lost"), "nowhere:Lost"),
        (lying(5, "Lost"), "?:Lost"),
        (lying("a\x1b[31m", "b\nc"), "a_[31m:b_c"),
        (lying("a", "b" * 1000), "a:" + "b" * 198),
    ],
)
def test_class_that_is_not_where_its_name_says_is_known_as_such(kind: type[Exception], name: str) -> None:
    """Made in a function, under the name of another, or of no module: its name is text that can be printed."""
    assert qualified_name(kind) == name
    assert not is_findable(kind)
    assert class_named(name) is not kind


def test_lineage_has_the_classes_above_that_can_be_found() -> None:
    """In their order; `Exception` goes without saying."""
    assert lineage(httpx.ConnectError) == [
        f"httpx:{name}" for name in ("NetworkError", "TransportError", "RequestError", "HTTPError")
    ]
    below = type("Below", (lying("httpx", "ConnectError"),), {})
    assert lineage(below) == ["OSError"]
    assert lineage(TimedOut) == ["resilient.errors:ResilientError", "TimeoutError", "OSError"]


PROGRAM = """
from resilient.observe.evidence import is_findable, qualified_name
class Busy(Exception): ...
print(qualified_name(Busy), is_findable(Busy))
"""


@pytest.mark.parametrize(
    ("command", "module"), [(["app.py"], "app"), (["-m", "app"], "app"), (["-c", PROGRAM], "__main__")]
)
def test_classes_of_a_program_have_the_name_under_which_others_import_it(
    command: list[str], module: str, tmp_path: Path
) -> None:
    """Classes of the main module have the module's name as others import it, since a replay has another main module."""
    (tmp_path / "app.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == f"{module}:Busy True\n"


@pytest.mark.parametrize(
    "name", ["", ":", "os:system", "builtins:eval", "nowhere:Lost", "httpx:", "httpx:ConnectError.x", "sys:modules.x"]
)
def test_name_that_is_none_leads_nowhere(name: str) -> None:
    """To no function either, and nothing is imported."""
    assert class_named(name) is None
    assert "nowhere" not in sys.modules


def test_looking_for_a_class_runs_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules and classes may have code for their attributes; a lazy module would be loaded."""

    class Lazy(type(sys)):  # type: ignore[misc]
        def __getattribute__(self, name: str) -> Any:
            raise AssertionError(name)

    monkeypatch.setitem(sys.modules, "lazy_module", Lazy("lazy_module"))
    assert class_named("lazy_module:Error") is None


# -- facts ------------------------------------------------------------------------------------------------------------


def test_no_text_of_an_error_is_a_fact() -> None:
    """Of no client: neither messages, nor URLs, nor header fields."""
    request = httpx.Request("GET", "http://hunter2", headers={"authorization": "hunter2"})
    response = httpx.Response(503, headers={"retry-after": "7", "x": "hunter2"}, text="hunter2", request=request)
    error = httpx.HTTPStatusError("hunter2", request=request, response=response)
    error.sqlstate = error.code = error.status = "hunter2"  # type: ignore[attr-defined]
    error.__cause__ = OSError(104, "hunter2")
    assert evidence_of(error) == Evidence((("response.status_code", 503), ("retry_after", 7.0)))
    assert evidence_of(ValueError("LOADING hunter2")) is None


EVERY = [made for library in MEANINGS.values() for made, _ in library]


@pytest.mark.parametrize("made", EVERY)
def test_facts_are_as_they_were_when_they_have_been_written(made: Callable[[], Exception]) -> None:
    """Facts of the errors of every client are unchanged after they are written and read."""
    found = evidence_of(made())
    assert evidence_from(as_json(found)) == found


@pytest.mark.parametrize("kind", [*ODD, Masked], ids=type.__dict__["__name__"].__get__)
def test_attributes_that_raise_are_no_facts(kind: type[Exception]) -> None:
    """An error is recorded without them, and the listener does not fail."""
    assert evidence_of(kind()) is None


def test_group_has_the_different_errors_in_it() -> None:
    """Errors of nested groups are listed, too; ten at the most."""
    group = ExceptionGroup(
        "", [OSError(1), ExceptionGroup("", [KeyError(), OSError(2)]), OSError(104, "x"), OSError(104, "y")]
    )
    found = evidence_of(group)
    assert found is not None
    assert found.leaves == (
        ("OSError", None),
        ("KeyError", None),
        ("ConnectionResetError", Evidence((("errno", 104),))),
    )
    many = evidence_of(ExceptionGroup("", [type(f"E{number}", (OSError,), {})() for number in range(50)]))
    assert many is not None
    assert len(many.leaves) == 10
    assert evidence_from(as_json(found)) == found
