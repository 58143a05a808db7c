"""What all tests share: the event loops they may ask for, and the worlds that a policy must behave alike in.

`@pytest.mark.virtual_time` is our users' own (`resilient_pytest`).
"""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator, Mapping

import certifi
import hypothesis  # noqa: F401  (it looks for those who refer to trio's random numbers: before these are frozen)
import pytest
import uvloop

from resilient.runtime.virtual import VirtualLoop
from tests.worlds import WORLDS, UvloopWorld, World

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def pytest_configure(config: pytest.Config) -> None:
    """Declares the markers of this suite."""
    config.addinivalue_line("markers", "every_loop: run it on asyncio's loop, on uvloop and in virtual time")


@pytest.hookimpl(tryfirst=True)
def pytest_collection() -> None:
    """Collection makes a million objects that stay: to look for garbage among them takes seconds, and finds little."""
    gc.disable()


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """A test that collects garbage looks at nothing that was there before all tests: that takes a third of a second."""
    gc.collect()
    gc.freeze()
    gc.enable()


KNOWN_THREADS: set[threading.Thread] = set()
"""Threads that were alive when an earlier module had ended."""


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """After each module: collects what it has left behind, and keeps the rest out of later collections.

    Hundreds of tests collect garbage. The reports of the thousands before would make each collection slower. A thread
    that is still at work holds what may be garbage soon: nothing is frozen before the end of the next module then.
    """
    if nextitem is None or nextitem.path != item.path:
        gc.collect()
        alive = set(threading.enumerate())
        if alive <= KNOWN_THREADS:
            gc.freeze()
        KNOWN_THREADS.clear()
        KNOWN_THREADS.update(alive)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish() -> None:
    """Lets reports collect everything again."""
    gc.unfreeze()


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, LoopFactory]:
    """A coroutine test runs on asyncio's own loop, unless a marker says otherwise."""
    if item.get_closest_marker("every_loop"):
        return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop, "virtual": VirtualLoop}
    return {"asyncio": asyncio.new_event_loop}


@pytest.fixture(scope="session", autouse=True)
def few_authorities(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Clients trust one certificate authority. To read all of them takes each client longer than most tests take."""
    first, mark, _ = certifi.contents().partition("-----END CERTIFICATE-----\n")
    authority = tmp_path_factory.mktemp("authorities") / "one.pem"
    authority.write_text(first + mark)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(authority))
        yield


@pytest.fixture(params=[kind for kind in WORLDS if kind is not UvloopWorld], ids=lambda kind: kind.name)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """Each runtime in turn: asyncio, virtual time, trio, threads.

    uvloop's is asyncio's, but for the clock. Tests of the runtime, of timeouts and of rates run on uvloop, too.
    """
    made: World = request.param()
    yield made
    made.close()
