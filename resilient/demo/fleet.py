"""The server processes of one side of the demo: started, awaited, killed, restarted, ended.

async with Fleet(seed=1, duration=20.0) as fleet:
    fleet.begin(time.time())
    ... fleet.urls ...
    fleet.kill(2)
    await fleet.restart(2)
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType

import httpx

from resilient.demo.faults import SERVERS

__all__ = ["Fleet", "NotReady"]

READY_SECONDS = 30.0  # seconds for a process to answer; it takes less than one unless the machine is very busy


class NotReady(RuntimeError):
    """Raised if a server process of the demo does not start."""


class Fleet:
    """`SERVERS` processes with the faults of `seed`, numbered from 1, each on a free port."""

    def __init__(self, *, seed: int, duration: float) -> None:
        self._arguments = ("--seed", str(seed), "--duration", repr(duration))
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._ports: dict[int, int] = {}
        self._began: float | None = None

    @property
    def urls(self) -> list[str]:
        """The URLs of the processes, in order; a restarted process keeps its URL."""
        return [self.url(number) for number in sorted(self._ports)]

    def url(self, number: int) -> str:
        """The URL of server process `number` of the demo."""
        return f"http://127.0.0.1:{self._ports[number]}"

    def begin(self, at: float) -> None:
        """Announce the start of the run (a `time.time()`) to every process: the times of faults count from there."""
        self._began = at
        for process in self._processes.values():
            self._tell(process)

    def kill(self, number: int) -> None:
        """Kill a process with SIGKILL: the kernel closes its connections, and refuses new ones at once."""
        self._processes[number].kill()

    async def restart(self, number: int) -> None:
        """Restart a killed process on its old port; returns when it answers."""
        await self._processes[number].wait()
        await self._start(number)

    async def __aenter__(self) -> Fleet:
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(1, SERVERS + 1):
                    group.create_task(self._start(number))
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._end()

    async def _end(self) -> None:
        for process in self._processes.values():
            if process.returncode is None:
                process.kill()
        await asyncio.gather(*(process.wait() for process in self._processes.values()))

    async def _start(self, number: int) -> None:
        try:
            async with asyncio.timeout(READY_SECONDS):
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "resilient.demo.server",
                    *("--number", str(number), "--port", str(self._ports.get(number, 0))),
                    *self._arguments,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,  # no output while nothing is wrong
                    # A Ctrl-C in the terminal goes to the parent, which then ends the processes.
                    start_new_session=True,
                    env=_environment(),
                )
                self._processes[number] = process
                assert process.stdout is not None
                line = await process.stdout.readline()
                if not line:
                    raise NotReady(f"server {number} did not start: {await _last_words(process)}")
                self._ports[number] = int(line)
                self._tell(process)
                await _answers(f"{self.url(number)}/health")
        except TimeoutError:
            raise NotReady(f"server {number} not ready in {READY_SECONDS:g} seconds") from None

    def _tell(self, process: asyncio.subprocess.Process) -> None:
        if process.stdin is not None and self._began is not None:
            process.stdin.write(f"{self._began!r}\n".encode())


async def _last_words(process: asyncio.subprocess.Process) -> str:
    """The last line of a process's standard error, usually that of a traceback."""
    _, errors = await process.communicate()
    lines = errors.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"exit code {process.returncode}"


async def _answers(url: str) -> None:
    """Send requests until there is an answer."""
    async with httpx.AsyncClient(timeout=1.0, trust_env=False) as client:
        while True:
            try:
                (await client.get(url)).raise_for_status()
            except httpx.HTTPError:
                await asyncio.sleep(0.02)
            else:
                return


def _environment() -> dict[str, str]:
    """The environment of this process, in which this package can be imported, even from a checkout that is not
    installed."""
    here = str(Path(__file__).parents[2])
    path = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": here if not path else os.pathsep.join((here, path))}
