"""What all tests share: the event loops that they can ask for, and the worlds in which a policy must behave alike.

`@pytest.mark.virtual_time` is the marker that users have (`resilient_pytest`).
"""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator, Mapping

import certifi
import hypothesis  # noqa: F401  (it looks for references to trio's random numbers: before these are frozen)
import pytest
import uvloop

from resilient.events import channel, counters
from resilient.events.channel import record_durations
from resilient.runtime.virtual import VirtualLoop
from tests.worlds import WORLDS, UvloopWorld, World

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers of this suite with pytest."""
    config.addinivalue_line("markers", "every_loop: run it on asyncio's loop, on uvloop and in virtual time")


@pytest.hookimpl(tryfirst=True)
def pytest_collection() -> None:
    """Switch garbage collection off while tests are collected. That makes a million objects that stay, among which it
    takes seconds to look for garbage."""
    gc.disable()


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Exempt all objects so far from garbage collection. A test that collects garbage otherwise takes a third of a
    second more."""
    gc.collect()
    gc.freeze()
    gc.enable()


KNOWN_THREADS: set[threading.Thread] = set()
"""Threads that were alive when an earlier module had ended."""


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """After each test no exporter wants durations any more, which would change the path of the calls of later tests;
    no listener hears the pipelines of all tests; and pipelines of later tests count from 0, also if they have the same
    names.

    After each module collect its garbage, and exempt what is left. Otherwise the reports of thousands of tests slow
    down each later collection, and each pipeline that is garbage would look at all pipelines."""
    for owner in list(counters._recording.wanted):
        record_durations(owner, None)
    counters._by_name.clear()
    if channel._everywhere:
        channel._everywhere.clear()
        channel._spread()
    if nextitem is None or nextitem.path != item.path:
        gc.collect()
        alive = set(threading.enumerate())
        if alive <= KNOWN_THREADS:
            gc.freeze()
        KNOWN_THREADS.clear()
        KNOWN_THREADS.update(alive)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish() -> None:
    """Let the garbage collector see all objects again."""
    gc.unfreeze()


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, LoopFactory]:
    """Run a coroutine test on asyncio's own loop, unless a marker says otherwise."""
    if item.get_closest_marker("every_loop"):
        return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop, "virtual": VirtualLoop}
    return {"asyncio": asyncio.new_event_loop}


@pytest.fixture(scope="session", autouse=True)
def few_authorities(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let clients trust one certificate authority. To read all of them takes each client longer than most tests
    take."""
    first, mark, _ = certifi.contents().partition("-----END CERTIFICATE-----\n")
    authority = tmp_path_factory.mktemp("authorities") / "one.pem"
    authority.write_text(first + mark)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(authority))
        yield


@pytest.fixture(params=[kind for kind in WORLDS if kind is not UvloopWorld], ids=lambda kind: kind.name)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """Give a test each runtime in turn: asyncio, virtual time, trio, threads.

    uvloop differs from asyncio's loop in its clock only. Tests of the runtime, of timeouts and of rates run on uvloop,
    too.
    """
    made: World = request.param()
    yield made
    made.close()
