"""Damaged traces: `python -m tests.observe.mutations 2000` replays this number of them.

Each is read and simulated by the command, in this process; what is refused must be one line with the file's name, and
exit code 2, and no control character is printed. Whatever raises ends the run, with the file left for a look.
"""

from __future__ import annotations

import gzip
import json
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from resilient.observe.evidence import CHECKS

__all__ = ["mutated"]

LINES: list[dict[str, Any]] = [
    {"trace": 2, "began": "2026-11-30T12:00:00.250+00:00"},
    {"kind": "httpx:ConnectError", "is": ["httpx:NetworkError", "httpx:TransportError"]},
    {"t": 0.0, "s": 0.25, "try": 1, "e": "httpx:ConnectError", "zero": 0.5, "p": "users", "k": "eu"},
    {"t": 0.0, "s": 0.25, "n": 1, "end": "failure", "e": "httpx:ConnectError", "p": "users", "k": "eu"},
    {"t": 0.5, "s": 0.5, "try": 1, "e": "httpx:HTTPStatusError", "has": {"response.status_code": 503}, "p": "users"},
    {"t": 1.0, "s": 0.5, "try": 2, "bad": True, "has": {"status": 429, "retry_after": 1.5}, "p": "users"},
    {"t": 0.5, "s": 1.0, "n": 2, "end": "failure", "p": "users"},
    {
        "t": 1.5,
        "s": 0.5,
        "try": 1,
        "e": "ExceptionGroup",
        "of": [{"e": "OSError", "has": {"errno": 104}}],
        "p": "users",
    },
    {"t": 1.5, "s": 0.5, "n": 1, "end": "failure", "e": "ExceptionGroup", "p": "users"},
    {"t": 2.0, "s": 2.0, "try": 1, "e": "asyncio.exceptions:CancelledError", "cut": True, "p": "users"},
    {"t": 2.0, "s": 2.0, "n": 1, "end": "timeout", "e": "resilient.errors:TimedOut", "p": "users"},
    {"t": 2.5, "would": "refuse", "by": "RateLimit", "p": "users"},
    {"t": 3.0, "s": 0.5, "try": 1, "p": "users"},
    {"t": 3.0, "s": 0.5, "n": 1, "end": "success", "p": "users"},
    {"end": "closed", "dropped": 0},
]
"""A trace of everything that there is in traces."""

ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 0.5, -0.5, 1e9, 1e308, -1e308, 10**15, 10**400, float("nan"), float("inf")),
    *(
        "",
        "x",
        "\ud800",
        "\x1b[31m",
        "[red]",
        "[/]",
        "a\nb",
        "os:system",
        "builtins:eval",
        "builtins:SystemExit",
        "x" * 9000,
    ),
    *([], {}, [[]], [1], {"e": 1}, ["OSError"] * 20, {"status": 503}, {"status": "503"}, [{"e": "OSError"}]),
    *(
        "StopIteration",
        "KeyboardInterrupt",
        "ExceptionGroup",
        "TypeError",
        "resilient.errors:CircuitOpen",
        ":",
        "a:",
        ":b",
    ),
]
"""Values that are seldom meant."""


PATHS = [*CHECKS, "url", ""]


def _field(draw: random.Random, lines: list[dict[str, Any]]) -> None:
    line = draw.choice(lines)
    line[draw.choice([*line, *draw.choice(LINES)])] = draw.choice(ODD)


def _fact(draw: random.Random, lines: list[dict[str, Any]]) -> None:
    facts = draw.choice(lines).setdefault("has", {})
    if isinstance(facts, dict):
        paths = [
            "status",
            "retry_after",
            "response.status_code",
            "response.Error.Code",
            "code()",
            "errno",
            "args.0",
            "url",
        ]
        facts[draw.choice([*paths, "certificate", "evidence", "sqlstate", "pushback_ms"])] = draw.choice(ODD)


def _name(draw: random.Random, lines: list[dict[str, Any]]) -> None:
    names = [each for each in ODD if isinstance(each, str)]
    kind = {"kind": draw.choice(names), "is": draw.sample(names, 3), "local": draw.random() < 0.5}
    lines[1:1] = [kind, {"t": 2, "s": 1, "try": 1, "e": kind["kind"]}]


def _missing(draw: random.Random, lines: list[dict[str, Any]]) -> None:
    line = draw.choice(lines)
    if line:
        line.pop(draw.choice(list(line)))


def _again(draw: random.Random, lines: list[dict[str, Any]]) -> None:
    lines.insert(draw.randrange(len(lines) + 1), dict(draw.choice(lines)))


def _swapped(draw: random.Random, lines: list[dict[str, Any]]) -> None:
    draw.shuffle(lines)


Change = Callable[[random.Random, list[dict[str, Any]]], None]
CHANGES: list[Change] = [
    _field,
    _fact,
    _name,
    _missing,
    _again,
    _swapped,
]


def _torn(draw: random.Random, data: bytes) -> bytes:
    return data[: draw.randrange(len(data) + 1)]


def _flipped(draw: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.randrange(1, 4)):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _twice(draw: random.Random, data: bytes) -> bytes:
    return data + data


def _followed(draw: random.Random, data: bytes) -> bytes:
    return data + draw.randbytes(draw.randrange(200))


DAMAGES: list[Callable[[random.Random, bytes], bytes]] = [_torn, _flipped, _twice, _followed]


def mutated(draw: random.Random, folder: Path, number: int) -> Path:
    """A file with a trace that has some of these mistakes, or none."""
    lines = [json.loads(json.dumps(line)) for line in LINES]
    for _ in range(draw.randrange(4)):
        draw.choice(CHANGES)(draw, lines)
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    zipped = draw.random() < 0.3
    if zipped:
        data = gzip.compress(data, 1)
    if draw.random() < 0.4 and data:
        data = draw.choice(DAMAGES)(draw, data)
    path = folder / (f"{number}.trace.gz" if zipped else f"{number}.trace")
    path.write_bytes(data)
    return path


def main(count: int, seed: int = 1) -> None:
    """Replay this number of traces, and print how many were refused."""
    from typer.testing import CliRunner

    from resilient.cli.app import app

    draw, refused, folder = random.Random(seed), 0, Path(tempfile.mkdtemp())
    for number in range(count):
        path = mutated(draw, folder, number)
        command = ["simulate", "--trace", str(path), "--pipeline", "none", "--json", str(folder / "found.json")]
        result = CliRunner().invoke(app, command)
        if result.exit_code == 2:
            refused += 1
        if (
            result.exit_code not in (0, 2)
            or (result.exit_code == 2 and (result.stderr.count("\n") != 1 or path.name not in result.stderr))
            or not all(map(str.isprintable, result.output.splitlines()))
        ):
            raise SystemExit(f"{path}: {result.exit_code}, {result.exception!r}\n{result.output}")
        path.unlink()
    print(f"{count:,} traces: {refused:,} refused in one line each, the others simulated")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
