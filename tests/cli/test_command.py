"""The `resilient` command as a process: its output, and what happens if nothing can be written there."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from resilient import cli

LIST = ["resilient", "simulate", "list"]


SMALL = """
duration = 1
load.rate = 20
service.service_time = 0.01
[pipelines.a]
policies = [{policy = "Timeout", seconds = 1}]
"""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the command with standard output in a file descriptor; returns its exit code."""

    def to(descriptor: int, *arguments: str, encoding: str = "utf-8") -> int:
        with os.fdopen(descriptor, "w", encoding=encoding) as stream:
            monkeypatch.setattr(sys, "stdout", stream)
            monkeypatch.setattr(sys, "stderr", sys.stderr)
            monkeypatch.setattr(sys, "argv", [*LIST[:1], *arguments])
            with pytest.raises(SystemExit) as ended:
                cli.main()
            monkeypatch.setattr(sys, "stdout", sys.__stdout__)
        return int(ended.value.code or 0)

    return to


def test_reader_that_leaves_changes_no_exit_code(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    """`| head -1` closes the pipe early."""
    reader, writer = os.pipe()
    os.close(reader)

    assert run(writer, "simulate", "list") == 0
    assert capsys.readouterr().err == ""


def test_closed_standard_error_changes_no_exit_code(
    run: Callable[..., int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A daemon has no standard error: the progress of a simulation is not reported."""
    (tmp_path / "small.toml").write_text(SMALL)
    out = tmp_path / "out.txt"
    monkeypatch.setattr(sys, "stderr", None)

    assert run(os.open(out, os.O_WRONLY | os.O_CREAT), "simulate", str(tmp_path / "small.toml")) == 0
    assert "success %" in out.read_text()


def test_full_disk_is_one_line_and_exits_with_2(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    """A full disk behind standard output is reported like that of a file."""
    if not Path("/dev/full").exists():
        return
    assert run(os.open("/dev/full", os.O_WRONLY), "--version") == 2
    assert capsys.readouterr().err == "resilient: standard output: No space left on device\n"


def test_ascii_terminal_can_be_read(run: Callable[..., int], tmp_path: Path) -> None:
    """Characters without an ASCII code are shown as question marks."""
    file = tmp_path / "out.txt"
    (tmp_path / "small.toml").write_text(f'title = "Störung"\n{SMALL}')
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT)
    assert run(descriptor, "simulate", str(tmp_path / "small.toml"), "--runs", "2", encoding="ascii") == 0

    text = file.read_text(encoding="ascii")
    assert "St?rung" in text
    assert "| a " in text
