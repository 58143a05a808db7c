"""`resilient watch` as a process: in a pipe, in a terminal, for scripts, and when the server is not there."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resilient import Bulkhead, CircuitBreaker, Pipeline
from resilient.observe.live import LiveView
from tests.cli.watch_servers import answering
from tests.demo.test_cli import environment, gone, needs_proc
from tests.server.running import Running
from tests.servers import free_port

COMMAND = [sys.executable, "-m", "resilient", "watch"]


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
        env=environment("watch") | {"COLUMNS": "80"} | variables,
    )


def watched(*arguments: str, until: str) -> tuple[str, str]:
    """Let the command run until it has printed a line with this text, press Ctrl-C, and return all that it printed, on
    both outputs."""
    with subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment("watch")
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        lines = []
        while not (lines and until in lines[-1]):
            lines.append(process.stdout.readline())
            assert lines[-1], process.stderr.read()
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=60)
        assert process.returncode == 130
    return "".join(lines) + rest, errors


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with Running("uvicorn") as running:
        yield running


@pytest.fixture
def live(server: Running) -> Iterator[str]:
    """The address of a live page with a pipeline whose circuit is isolated, and whose name has control characters."""
    server.app = LiveView()
    breaker = CircuitBreaker(name="db")
    watched = Pipeline(Bulkhead(7), breaker, name="watched\x1b[31m")
    breaker.isolate()
    yield server.origin
    assert watched.mode == "on"


# -- for scripts ----------------------------------------------------------------------------------------------------


def test_once_shows_the_state_and_ends(live: str, tmp_path: Path) -> None:
    """A table of 80 columns without escape codes, and one object of JSON."""
    file = tmp_path / "state.json"
    done = run(live, "--once", "--json", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert r"'watched\x1b[31m'" in done.stdout
    assert "isolated" in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    (line,) = file.read_text().splitlines()
    state = json.loads(line)
    assert state["pid"] == os.getpid()
    found = next(each for name, each in state["pipelines"].items() if "watched" in name)
    assert found["circuits"] == {"isolated": 1}
    assert found["permits"] == [{"policy": "Bulkhead", "in_use": 0, "limit": 7, "queued": 0}]


def test_json_goes_to_standard_output_alone(live: str) -> None:
    """For `| jq`."""
    printed, errors = watched(live, "--json", "-", until='"pipelines"')
    assert all("pipelines" in json.loads(line) for line in printed.splitlines())
    assert "isolated" in errors


def test_pipe_gets_lines_without_escape_codes(live: str) -> None:
    """Each pipeline in a line."""
    printed, _ = watched(live, until="watched")
    assert "\x1b" not in printed
    assert re.search(r"^\d\d:\d\d:\d\d 'watched\\x1b\[31m': isolated, 0 in flight, Bulkhead 0/7$", printed, re.M)


def test_reader_that_leaves_ends_the_command(live: str) -> None:
    """`resilient watch URL | head -1` does not run for ever."""
    with subprocess.Popen(
        [*COMMAND, live, "--json", "-"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment("watch"),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 0


def test_server_that_is_not_there(tmp_path: Path) -> None:
    """`--once` says so at once; otherwise the command tries until its time is over. Both exit with 1."""
    url = f"http://127.0.0.1:{free_port()}"
    done = run(url, "--once")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"resilient: {url}: ConnectError")
    file = tmp_path / "states.json"
    done = run(url, "--seconds", "1", "--json", str(file))
    assert done.returncode == 1
    assert done.stdout.startswith(f"no answer from {url}, trying again: ConnectError")
    assert done.stderr == f"resilient: {url} has not answered\n"
    assert "ConnectError" in json.loads(file.read_text().splitlines()[0])["error"]


def test_address_without_a_page_exits_with_2(server: Running) -> None:
    """In one line, whatever the server answers."""
    server.app = answering(404, "text/plain", b"")
    for options in (["--once"], []):
        done = run(server.origin, *options)
        assert done.returncode == 2
        assert done.stderr == f"resilient: {server.origin}: 404 Not Found: neither a live page nor metrics\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give a URL, or --demo to see one"),
        (["a", "--demo"], "give a URL or --demo, not both, got 'a'"),
        (["ftp://a"], "URL must be the address of a live page or of metrics, as http://127.0.0.1:8000/live, got 'ftp:"),
        (["a", "--once", "--seconds", "3"], "--once ends by itself: leave out --seconds"),
        (["a", "--seconds", "0"], "--seconds must be from 0.1 to 1e+09 seconds, got 0"),
        (["a", "--json", "/nowhere/x"], "--json must be in a directory that can be written to, got /nowhere/x"),
    ],
)
def test_bad_option_exits_with_2(arguments: list[str], words: str) -> None:
    """One line that says what to write."""
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"resilient: {words}")
    assert done.stderr.count("\n") == 1


# -- in a terminal --------------------------------------------------------------------------------------------------


class Terminal:
    """A command in a terminal of this size."""

    def __init__(self, *arguments: str, columns: int = 80, lines: int = 24, **variables: str) -> None:
        main, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        env = environment("watch") | {"TERM": "xterm-256color"} | variables
        del env["COLUMNS"]
        self.process = subprocess.Popen(
            [*COMMAND, *arguments], stdin=other, stdout=other, stderr=other, env=env, start_new_session=True
        )
        os.close(other)
        self._main = main
        self.text = ""

    def until(self, words: str) -> None:
        """Read until these words have been shown."""
        give_up = time.monotonic() + 60
        while words not in self.text:
            assert time.monotonic() < give_up, self.text
            if not self._read():
                raise AssertionError(f"{words!r} is not in {self.text!r}")

    def stop(self) -> None:
        """Press Ctrl-C, and read all."""
        self.process.send_signal(signal.SIGINT)
        assert self.end() == 130

    def end(self) -> int:
        """Read all, and return the exit code."""
        while self._read():
            pass
        os.close(self._main)
        return self.process.wait(60)

    def _read(self) -> bool:
        select.select([self._main], [], [], 60)
        try:
            part = os.read(self._main, 65_536)
        except OSError:  # its other end is closed
            return False
        self.text += part.decode(errors="replace")
        return bool(part)


def test_terminal_shows_the_screen_and_is_left_as_it_was(live: str) -> None:
    """Ctrl-C restores the terminal, leaves the last state above the prompt, and exits with 130 without a traceback."""
    terminal = Terminal(live)
    terminal.until("isolated")
    assert "\x1b[?1049h" in terminal.text  # the other screen of the terminal
    assert "\x1b[?25l" in terminal.text  # no cursor
    terminal.stop()
    after = terminal.text.rpartition("\x1b[?1049l")[2]
    assert "isolated" in after
    assert after.rstrip().endswith("resilient: stopped")
    assert "Traceback" not in terminal.text
    assert "\x1b[?25h" in terminal.text
    assert "\x1b[31mwatched" not in terminal.text


def test_terminal_has_colours_unless_the_environment_says_no(live: str) -> None:
    """NO_COLOR: the words say the same."""
    for variables, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        terminal = Terminal(live, **variables)
        terminal.until("isolated")
        terminal.stop()
        assert bool(re.search(r"\x1b\[[0-9;]*3[0-7]m", terminal.text)) is coloured


def test_dumb_terminal_gets_lines(live: str) -> None:
    """TERM=dumb knows no codes."""
    terminal = Terminal(live, TERM="dumb")
    terminal.until("isolated")
    terminal.stop()
    assert "\x1b" not in terminal.text


def test_small_terminal_is_not_overrun(live: str) -> None:
    """Eight lines of 40 columns: the screen is never longer, or it would scroll."""
    terminal = Terminal(live, columns=40, lines=8)
    terminal.until("isolated")
    terminal.stop()
    frames = terminal.text.partition("\x1b[?1049l")[0].split("\x1b[H")
    plain = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", frame).replace("\r", "") for frame in frames]
    assert any("isolated" in frame for frame in plain)
    assert max(frame.rstrip("\n").count("\n") for frame in plain) < 8
    assert max(len(line) for frame in plain for line in frame.split("\n")) <= 40


# -- the demo -------------------------------------------------------------------------------------------------------


@needs_proc
def test_demo_moves_and_leaves_no_process() -> None:
    """Its servers, its load and its live page run in the background, and end with the command."""
    done = subprocess.run(
        [*COMMAND, "--demo", "--seconds", "6", "--json", "-"],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env=environment("watch --demo"),
    )
    assert done.returncode == 0, done.stderr
    assert gone("watch --demo")
    states: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    last = states[-1]["pipelines"]
    assert {"inventory", "inventory-process"} <= set(last)
    assert last["inventory"]["calls"] > 0
    assert any(each["pipelines"]["inventory"].get("rate", 0) > 0 for each in states)
    assert any(each["pipelines"]["inventory"].get("p50", 0) > 0 for each in states)
    assert "the same in a browser: http://127.0.0.1:" in done.stderr
    assert "Traceback" not in done.stderr


@needs_proc
def test_ctrl_c_while_the_demo_starts_leaves_no_process() -> None:
    """As soon as the command has said that it starts them."""
    mark = "watch --demo, stopped"
    with subprocess.Popen(
        [*COMMAND, "--demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(mark)
    ) as process:
        assert process.stderr is not None
        assert "starting" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == "resilient: stopped\n"
        assert process.wait(60) == 130
    assert gone(mark)
