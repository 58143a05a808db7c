"""Scenario files of strangers are data, take bounded time, and every mistake is one printable line."""

from __future__ import annotations

import os
import random
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from resilient.lab.scenario_file import ScenarioError, read, scenario_from
from tests.lab.test_scenario_file import WHOLE, small

SMALL = "duration = 10\nload.rate = 5\nservice.service_time = 0.1\n"


def refused(path: object) -> str:
    """The message about a file that cannot be read."""
    with pytest.raises(ScenarioError) as raised:
        read(str(path))
    message = str(raised.value)
    assert message.isprintable()
    return message


# -- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("written", [SMALL, "\ufeff" + SMALL, SMALL.replace("\n", "\r\n")], ids=["unix", "bom", "crlf"])
def test_text_of_any_system_is_read(tmp_path: Path, written: str) -> None:
    """A file may have a byte order mark, and either kind of line end."""
    file = tmp_path / "a.toml"
    file.write_bytes(written.encode())

    assert read(str(file)).duration == 10


def _fifo(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Path.mkdir, "cannot be read: it is a directory"),
        (_fifo, "cannot be read: it is a pipe or a device"),
        (lambda path: path.symlink_to("/dev/zero"), "cannot be read: it is a pipe or a device"),
        (lambda path: path.write_bytes(b"#" * 1_000_001), "is too large: at most 1,000,000 bytes are read"),
        (lambda path: path.write_bytes(b"duration = 1\n\xff"), "is not UTF-8 text (line 2)"),
        (lambda path: path.write_text("a = " + "[" * 100_000), "is nested too deeply"),
        (lambda path: path.write_text("a = " + "{a=" * 30_000), "is nested too deeply"),
        (lambda path: path.write_text("a." * 40 + "b = 1"), "must not be nested deeper than 16 levels"),
        (lambda path: path.write_text(f"keys = {'9' * 5000}"), "is not TOML: Exceeds the limit"),
        (
            lambda path: path.write_text(f"keys = 0x{'f' * 50_000}"),
            "keys must be a number of 64 bits, got one of 200,000",
        ),
        (
            lambda path: path.write_text("duration = 1\nduration = 2"),
            "is not TOML: Cannot overwrite a value",
        ),
        (lambda path: path.write_text(""), "load is missing"),
    ],
)
def test_what_is_no_scenario_is_refused_at_once(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    """The message has the path and the mistake, with the line if it is known."""
    file = tmp_path / "bad.toml"
    make(file)

    said = refused(file)
    assert said.startswith(str(file))
    assert message in said


def test_file_without_permission_is_named(tmp_path: Path) -> None:
    """The message is that of the system."""
    file = tmp_path / "mine.toml"
    file.write_text(SMALL)
    file.chmod(0)
    if os.access(file, os.R_OK):
        return  # the superuser may read whatever there is
    assert refused(file) == f"{file} cannot be read: Permission denied"


@pytest.mark.parametrize("given", ["a" * 5000, "nul\0", "C:\\a.toml", "C:\\worlds", "::", ":a", "a:", "..:x", ""])
def test_names_that_no_file_has_are_refused(given: str) -> None:
    """Impossible names are refused, including those that another system accepts as a path."""
    refused(given)


def test_file_of_latencies_is_read_as_carefully(tmp_path: Path) -> None:
    """A pipe, which would block for ever, is refused."""
    _fifo(tmp_path / "latencies.txt")
    file = tmp_path / "a.toml"
    file.write_text(SMALL.replace("0.1", '{kind = "empirical", file = "latencies.txt"}'))

    assert refused(file).endswith("latencies.txt cannot be read: it is a pipe or a device")


def test_file_that_holds_no_latencies_is_not_quoted(tmp_path: Path) -> None:
    """A scenario may name any file of its reader, so the content of other files stays secret."""
    (tmp_path / ".env").write_text("TOKEN=secret\n")
    file = tmp_path / "a.toml"
    file.write_text(SMALL.replace("0.1", '{kind = "empirical", file = ".env"}'))

    assert refused(file).endswith(".env must be a number of seconds >= 0")


# -- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"title": "\x1b[2Jgone"}, "title must have no control characters, got '\\x1b' in it"),
        ({"about": "a\x00b"}, "about must have no control characters, got '\\x00' in it"),
        ({"title": "a" * 10_001}, "title must have at most 10,000 characters, got 10,001"),
        ({"load__kind": "\u202e"}, "load.kind must have no control characters, got '\\u202e' in it"),
        ({"pipelines__\x1b[31mred": {}}, "pipelines: a key must have 1 to 100 visible characters, got '\\x1b[31mred'"),
        ({"pipelines__ ": {}}, "pipelines: a key must have 1 to 100 visible characters, got ' '"),
        ({"pipelines": {"a" * 10_000: {}}}, "pipelines: a key must have 1 to 100 visible characters, got 'aaaa"),
        ({"pipelines": {"two words": {}}}, 'pipelines."two words" must have one of import, policies, preset, got none'),
        ({"load": [{"rate": 1}] * 1001}, "load must have at most 1,000 tables, got 1,001"),
        ({"clients__keys": 2**63}, "clients.keys must be a number of 64 bits, got one of 64 bits"),
        ({"load__knd": "poisson"}, "there is no 'load.knd': allowed are kind, priority, rate; did you mean kind?"),
        (
            {"load__kind": "poison"},
            "load.kind must be one of burst, closed, poisson, got 'poison'; did you mean poisson?",
        ),
    ],
)
def test_value_that_no_line_can_show_is_refused(changes: dict[str, Any], message: str) -> None:
    """Such a value is refused at any key."""
    with pytest.raises(ScenarioError) as raised:
        scenario_from(small(**changes))

    assert str(raised.value).startswith(message)
    assert str(raised.value).isprintable()


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a scenario."""
    for key, value in data.items() if isinstance(data, dict) else enumerate(data):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def put(path: tuple[Any, ...], value: object) -> dict[str, Any]:
    """A complete scenario, with another value at one place."""
    data: Any = tomllib.loads(WHOLE)
    table = data
    for key in path[:-1]:
        table = table[key]
    table[path[-1]] = value
    return data  # type: ignore[no-any-return]


STRANGE = [True, -1, 0, 2**62, float("nan"), float("inf"), "", "x", [], [[]], {}, {"kind": []}, [{}], "1e3", 1.5]
PLACES = list(places(tomllib.loads(WHOLE)))


def said_of(data: object, directory: Path) -> str:
    """The message about a scenario; empty if it can be read."""
    try:
        scenario_from(data, directory=directory)
    except ScenarioError as error:
        return str(error)
    return ""


def test_any_value_anywhere_is_read_or_refused_in_a_line(tmp_path: Path) -> None:
    """A table for a list, a list for a name, a flag for a number: at every place of a scenario."""
    (tmp_path / "latencies.txt").write_text("0.5\n")
    for path, value in zip(PLACES * 2, random.Random(1).choices(STRANGE, k=2 * len(PLACES)), strict=True):
        said = said_of(put(path, value), tmp_path)
        assert not said or said.isprintable(), path
        assert len(said) < 1000, path


# -- code -----------------------------------------------------------------------------------------------------------


def test_reading_a_scenario_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No key that may name code causes an import."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latencies.txt").write_text("0.5\n")
    (tmp_path / "of_a_stranger.py").write_text("def run(*args): raise AssertionError\n")
    named = [put(path, "of_a_stranger:run") for path in PLACES]
    code = "of_a_stranger:run"
    named += [
        put(("pipelines", "x"), {"import": code}),
        put(("pipelines", "written", "admission"), {"import": code}),
        put(("service", "admission"), {"import": code}),
        put(("faults", 0), {"kind": "errors", "error": code}),
        put(("calls",), {"arguments": code}),
        put(("calls",), {"answer": code}),
    ]
    for data in named:
        said_of(data, tmp_path)
    assert "of_a_stranger" not in sys.modules


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"pipelines__a": {"import": "resilient:standard"}}, "pipelines.a.import"),
        ({"service__admission": {"import": "resilient:standard"}}, "service.admission.import"),
        ({"faults": [{"kind": "errors", "error": "pybreaker:CircuitBreakerError"}]}, "faults[0].error"),
    ],
)
def test_code_is_named_only_with_leave(changes: dict[str, Any], place: str) -> None:
    """The message says how to allow it."""
    with pytest.raises(ScenarioError, match=r"names code, .*: --allow-imports .* if you trust the file") as raised:
        scenario_from(small(**changes))
    assert str(raised.value).startswith(place)

    scenario_from(small(**changes), imports=True)


@pytest.mark.parametrize("error", ["ConnectionError", "builtins:OSError"])
def test_exceptions_of_python_can_be_named_by_anyone(error: str) -> None:
    """This runs no code of a stranger."""
    scenario_from(small(faults=[{"kind": "errors", "error": error}]))


@pytest.mark.parametrize(
    "name", ["input", "breakpoint", "exit", "print", "open", "httpx:get", "httpx:main", "ValuError"]
)
def test_fault_of_a_stranger_names_exceptions_only(name: str) -> None:
    """Functions of Python and httpx are code as well, and are not called to see whether they make an exception."""
    data = {**tomllib.loads(SMALL), "faults": [{"kind": "errors", "error": name}]}
    with pytest.raises(ScenarioError, match=r"^faults\[0\]\.error must be the name of an exception .*, got '"):
        scenario_from(data)
