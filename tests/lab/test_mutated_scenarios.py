"""Damaged scenario files: changed characters, swapped words, values of other types, lines lost or repeated.

Each of them is simulated, or refused in one line. `SCENARIO_MUTATIONS=2000` tries that many; the suite tries a few.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from resilient.cli import simulation
from resilient.cli.app import app
from resilient.lab import estimate
from resilient.lab.scenario_file import gallery
from tests.cli.test_simulate import SCENARIO
from tests.lab.test_scenario_file import WHOLE

COUNT = int(os.environ.get("SCENARIO_MUTATIONS", "40"))
SCENARIOS = [SCENARIO, WHOLE, *(file.read_text() for file in gallery().values())]
TEXTS = [re.sub(r"rate = (\d+)", lambda rate: f"rate = {1 + int(rate[1]) // 50}", text) for text in SCENARIOS]
STRANGE = [
    *(
        "true",
        "-1",
        "0",
        "1e308",
        "nan",
        "-inf",
        "1e9",
        "9999999999999999999999",
        "0xffffffff",
        "0.001",
        '""',
        '"x"',
        "[]",
    ),
    *(
        "{}",
        "[[1]]",
        "1979-05-27T07:32:00Z",
        '"\\u001b[31m"',
        '"[/bold]"',
        "'''",
        '"none:x"',
        "[{kind = 1}]",
        "200_000_000",
    ),
]
TOKENS = re.compile(r'"[^"\n]*"|[\w.+-]+|\s+|.', re.DOTALL)


def flip(text: str, luck: random.Random) -> str:
    """A text with another character at one place."""
    at = luck.randrange(len(text))
    return text[:at] + chr(luck.choice([luck.randrange(128), luck.randrange(0x300)])) + text[at + 1 :]


def swap(text: str, luck: random.Random) -> str:
    """A text with two words exchanged."""
    tokens = TOKENS.findall(text)
    one, other = luck.choices(range(len(tokens)), k=2)
    tokens[one], tokens[other] = tokens[other], tokens[one]
    return "".join(tokens)


def replace(text: str, luck: random.Random) -> str:
    """A text with another value after one of its equals signs."""
    places = [match.span(1) for match in re.finditer(r'= *("[^"\n]*"|[\w.+-]+|\[[^\]\n]*\]|\{[^}\n]*\})', text)]
    begin, end = luck.choice(places or [(0, 0)])
    return text[:begin] + luck.choice(STRANGE) + text[end:]


def delete(text: str, luck: random.Random) -> str:
    """A text without one of its lines, or without a few characters."""
    if luck.random() < 0.5:
        at = luck.randrange(len(text))
        return text[:at] + text[at + luck.randrange(1, 20) :]
    lines = text.splitlines(keepends=True)
    del lines[luck.randrange(len(lines))]
    return "".join(lines)


def repeat(text: str, luck: random.Random) -> str:
    """A text with some of its lines repeated."""
    lines = text.splitlines(keepends=True)
    at = luck.randrange(len(lines))
    return "".join([*lines[:at], *lines[at : at + luck.randrange(1, 6)] * 2, *lines[at + 1 :]])


ACCIDENTS: list[Callable[[str, random.Random], str]] = [flip, swap, delete, repeat, *[replace] * 6]


def mutated(number: int) -> str:
    """A scenario with one to three damages."""
    luck = random.Random(f"accident {number}")
    text = luck.choice(TEXTS)
    for _ in range(luck.choice([1, 1, 1, 2])):
        text = luck.choice(ACCIDENTS)(text or "\n", luck)
    return text


def test_mutated_scenarios_run_or_are_refused_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No other result occurs, and none takes long."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(estimate, "LONGEST", 0.4)
    monkeypatch.setattr(estimate, "MOST_MEMORY", 2e7)
    monkeypatch.setattr(simulation, "MOST_REQUESTS", 5_000)
    Path("latencies.txt").write_text("0.5\n")
    runner = CliRunner()
    for number in range(COUNT):
        text = mutated(number)
        Path("a.toml").write_bytes(text.encode(errors="surrogatepass"))
        done = runner.invoke(app, ["simulate", "a.toml"])
        assert done.exit_code in (0, 2), text
        assert done.exception is None or isinstance(done.exception, SystemExit), text
        if done.exit_code:
            assert re.fullmatch(r"resilient: [^\n]{1,2100}\n", done.stderr), text
            assert done.stderr.strip().isprintable(), text
