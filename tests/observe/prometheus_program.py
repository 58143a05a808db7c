"""A process of a server in multiprocess mode, which a test controls line by line.

It registers the figures, and obeys commands from its standard input. After each it prints one line of JSON. Its
arguments are the options of `register` as JSON.

    ok N        N calls of the pipeline "users" that succeed; fail N: that fail
    hold        one call that stays in flight; open: opens the circuit
    tenants N   one call for each of N tenants, of which three are kept, and a writing after each
    flush       write the files; broken: while the counters of calls cannot be written
    scrape      what MultiProcessCollector shows: a list of [name, labels, value]
    own         what the registry in which the figures are registered shows
    again       end the registration, and register once more
    beside      register in the registry of a MultiProcessCollector, too, and show it; end: end the last registration
    other       register with other options; the message of the error, and what the registry shows then
    threads     the names of all threads; forking: those at the last fork; pid: the id of the process
    fork        a child that obeys the commands that follow, until it exits; the parent waits for it
    work N      a child that multiprocessing forks, makes N calls, and ends
    serve N     a child of a fork server, which registers by itself, makes N calls, and ends
    exit        end like a program (no answer); kill: by SIGKILL

The environment variable IDENTIFIER takes the place of the process's id in the names of the files.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Gauge, values
from prometheus_client.multiprocess import MultiProcessCollector

from resilient import CircuitBreaker, Keyed, Pipeline
from resilient.observe.prometheus import flush, register

if "IDENTIFIER" in os.environ:
    values.ValueClass = values.MultiProcessValue(lambda: os.environ["IDENTIFIER"])

options = json.loads(sys.argv[1])
state: list[Callable[[], None]] = []
"""The functions that end the registrations."""

forking: list[str] = []
"""The names of the threads at the last fork, when all that is to be done before it has been done."""

os.register_at_fork(before=lambda: forking.__setitem__(slice(None), thread_names()))

breaker = CircuitBreaker(fail_max=1_000_000, failure_rate=None, name="circuit")
users = Pipeline(breaker, name="users")
theirs = Gauge("their_gauge", "A live gauge of the user, in the same files.", multiprocess_mode="livesum")
theirs.set(1)


@users
def call(seconds: float = 0.0) -> int:
    """Succeed, or fail if `seconds` is below zero."""
    if seconds < 0:
        raise OSError
    return 7


@users
def hold(started: threading.Event) -> None:
    """Never return."""
    started.set()
    threading.Event().wait()


@Pipeline(Keyed(CircuitBreaker, key=lambda tenant: tenant, max_keys=3, name="tenants"), name="keyed")
def serve_tenant(tenant: str) -> int:
    """Succeed."""
    return 7


@contextmanager
def broken_counters() -> Iterator[None]:
    """Let the client fail to write a counter of calls."""
    write = values.ValueClass.set

    def fail(self: Any, value: float, timestamp: float | None = None) -> None:
        if self._params[1] == "resilient_calls":
            raise OSError("no space left on device")
        write(self, value, timestamp)

    values.ValueClass.set = fail
    yield
    values.ValueClass.set = write


def obey(command: str, number: int = 0) -> Any:
    """Do what a command says, and return what it answers."""
    if command == "ok":
        for _ in range(number):
            call()
    elif command == "fail":
        for _ in range(number):
            try:
                call(-1)
            except OSError:
                pass
    elif command == "hold":
        started = threading.Event()
        threading.Thread(target=hold, args=[started], daemon=True).start()
        started.wait()
    elif command == "open":
        breaker.open()
    elif command == "tenants":
        for tenant in range(number):
            serve_tenant(f"tenant {tenant}")
            flush()
    elif command == "flush":
        flush()
    elif command == "broken":
        with broken_counters():
            flush()
    elif command == "scrape":
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        return samples(registry)
    elif command == "own":
        return samples(REGISTRY)
    elif command == "again":
        state.pop()()
        state.append(register(**options))
    elif command == "beside":
        registry = CollectorRegistry()
        state.append(register(registry, **options))
        MultiProcessCollector(registry)
        return samples(registry)
    elif command == "other":
        registry = CollectorRegistry()
        try:
            register(registry, **{**options, "keys": 7})
        except ValueError as error:
            return [str(error), samples(registry)]
    elif command == "end":
        state.pop()()
    elif command == "work":
        child = multiprocessing.get_context("fork").Process(target=obey, args=["ok", number])
        child.start()
        child.join()
        return child.exitcode
    elif command == "serve":
        child = multiprocessing.get_context("forkserver").Process(target=serve, args=[number])
        child.start()
        child.join()
        return child.exitcode
    elif command == "threads":
        return thread_names()
    elif command == "forking":
        return forking
    elif command == "pid":
        return os.getpid()
    elif command == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
    else:
        raise ValueError(command)
    return None


def serve(number: int) -> None:
    """Register in a process that has not, and make calls."""
    register(**options)
    obey("ok", number)


def thread_names() -> list[str]:
    """Return the names of all threads."""
    return [each.name for each in threading.enumerate()]


def samples(registry: CollectorRegistry) -> list[list[Any]]:
    """Return all samples of a registry."""
    return [[each.name, each.labels, each.value] for metric in registry.collect() for each in metric.samples]


def main() -> None:
    """Register, and obey until "exit" or the end of the input."""
    state.append(register(**options))
    for line in iter(sys.stdin.readline, ""):
        command, *numbers = line.split()
        if command == "exit":
            break
        if command == "fork":
            child = os.fork()
            if child:
                os.waitpid(child, 0)
                answer("child ended")
            else:
                answer(os.getpid())
            continue
        answer(obey(command, *map(int, numbers)))


def answer(content: Any) -> None:
    """Print one line."""
    print(json.dumps(content), flush=True)


if __name__ == "__main__":
    main()
