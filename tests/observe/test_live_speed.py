"""The live page with 1,000 circuits stays quick, in a real browser."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from resilient import Bulkhead, CircuitBreaker, Pipeline, Retry, Timeout
from resilient.policies.keyed import Keyed
from tests.browsers import browser
from tests.observe.live_site import WAIT, Site, server, site, views

__all__ = ["browser", "server", "site", "views"]


def pipelines_of_1000_circuits() -> tuple[list[Pipeline], list[Any]]:
    """A circuit in each of 1,000 pipelines."""
    breakers = [CircuitBreaker() for _ in range(1000)]
    pipelines = [
        Pipeline(Retry(), Bulkhead(10), each, Timeout(2), name=f"page-{number:04}")
        for number, each in enumerate(breakers)
    ]
    return pipelines, breakers


def keys_of_1000_circuits() -> tuple[list[Pipeline], list[Any]]:
    """1,000 keys of one pipeline."""
    keyed = Keyed(CircuitBreaker, key=lambda key="page-0000": key)
    return [Pipeline(Retry(), keyed, name="page-thousand")], [
        keyed.gate_for(f"page-{number:04}") for number in range(1000)
    ]


@pytest.mark.parametrize("make", [pipelines_of_1000_circuits, keys_of_1000_circuits])
def test_page_with_1000_circuits_stays_responsive(
    site: Site, make: Callable[[], tuple[list[Pipeline], list[Any]]]
) -> None:
    """While calls end and circuits change all the time, no frame takes longer than 50 ms on a processor that is four
    times slower.

    The time is that of the page's own thread: the time on the clock grows on a busy machine. The browser's own throttle
    goes by the clock, too. So on a busy machine the time without a throttle, multiplied, is as good a measure.
    """
    pipelines, breakers = make()
    over = threading.Event()

    async def call() -> None:
        async def work() -> None:
            await asyncio.sleep(0)

        guarded = [each(work) for each in pipelines]
        turn = 0
        while not over.is_set():
            for each in guarded[turn % 4 :: 4]:
                try:
                    await each()
                except Exception:
                    pass
            turn += 1
            breakers[7 * turn % 1000].isolate()
            breakers[(7 * turn - 70) % 1000].close()
            await asyncio.sleep(0.2)

    caller = threading.Thread(target=lambda: asyncio.run(call()))
    caller.start()
    try:
        page = site.open()
        expect(page.locator("#summary")).to_contain_text("isolated", timeout=WAIT)
        expect(page.locator("#summary")).to_contain_text(re.compile(r"\b(9\d\d|1,\d\d\d) closed"), timeout=WAIT)
        worst: list[float] = []
        throttle = page.context.new_cdp_session(page)
        for slower in (4, 1, 4, 1, 4, 1):
            throttle.send("Emulation.setCPUThrottlingRate", {"rate": slower})
            worst.append(4 / slower * longest_task(site.browser, page))
            if worst[-1] <= 0.050:
                break
        assert min(worst) <= 0.050, worst
    finally:
        over.set()
        caller.join()


def longest_task(browser: Browser, page: Page) -> float:
    """Return the seconds that the longest task of the page's thread took of its processor, within two seconds."""
    browser.start_tracing(page=page, categories=["toplevel"])
    page.wait_for_timeout(2000)
    events = json.loads(browser.stop_tracing())["traceEvents"]
    threads = {
        (each["pid"], each["tid"])
        for each in events
        if each["name"] == "thread_name" and each["args"]["name"] == "CrRendererMain"
    }
    tasks = [
        each["tdur"] / 1e6
        for each in events
        if each["name"] == "ThreadControllerImpl::RunTask" and (each["pid"], each["tid"]) in threads and "tdur" in each
    ]
    assert len(tasks) > 20
    return max(tasks)
