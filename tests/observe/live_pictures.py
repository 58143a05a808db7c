"""Takes the pictures of the live page for the documentation: `python -m tests.observe.live_pictures docs`.

The pipelines are real, and so are their calls; only the dependencies are invented.
"""

from __future__ import annotations

import asyncio
import random
import sys
import threading
import time
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from resilient import (
    AdaptiveLimit,
    Budget,
    Bulkhead,
    CircuitBreaker,
    Fallback,
    Hedge,
    Pipeline,
    RateLimit,
    Retry,
    Timeout,
)
from resilient.observe.live import LiveView
from resilient.policies.keyed import Keyed
from tests.browsers import find_chromium
from tests.observe.live_server import Server

SECONDS = 62.0
"""How long the pipelines are called before the pictures are taken: then the curves are complete."""

VIEWS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "color_scheme": "light"},
}


class Stage:
    """Pipelines of a shop, and calls of them."""

    def __init__(self) -> None:
        budget = Budget(0.1)
        database = Pipeline(
            Bulkhead(20, queue=50, name="connections"), CircuitBreaker(name="replica"), name="orders-db"
        )
        self.pipelines = {
            "carts": Pipeline(
                Timeout(10),
                Retry(attempts=3, budget=budget),
                Bulkhead(50, queue=100),
                CircuitBreaker(),
                Timeout(2),
                name="carts",
            ),
            "orders": Pipeline(Timeout(5), database, name="orders"),
            "prices": Pipeline(RateLimit(8, per=1, burst=10), Fallback("the price of yesterday"), name="prices"),
            "search": Pipeline(Hedge(0.06), AdaptiveLimit(), CircuitBreaker(fail_max=5), name="search"),
            "tenants": Pipeline(
                Retry(attempts=2),
                Keyed(lambda: CircuitBreaker(fail_max=4, break_duration=8), key=lambda tenant: tenant),
                name="tenants",
            ),
        }
        self.random = random.Random(11)
        self.over = False

    async def work(self, seconds: float, failing: float) -> None:
        """Take some time, and fail now and then."""
        await asyncio.sleep(self.random.expovariate(1 / seconds))
        if self.random.random() < failing:
            raise ConnectionError

    async def run(self) -> None:
        """Call the pipelines until it is over."""
        guarded = {name: each(self.work) for name, each in self.pipelines.items() if name != "tenants"}

        @self.pipelines["tenants"]
        async def tenants(tenant: str) -> None:
            await self.work(0.02, 1.0 if tenant == "tenant-07" else 0.005)

        running: set[asyncio.Task[Any]] = set()

        def ended(task: asyncio.Task[Any]) -> None:
            running.discard(task)
            task.exception()

        def start(call: Any) -> None:
            task = asyncio.ensure_future(call)
            running.add(task)
            task.add_done_callback(ended)

        begin = time.monotonic()
        while not self.over:
            age = time.monotonic() - begin
            busy = 1 + 0.5 * (age % 30 > 15)
            start(guarded["carts"](0.03 * busy, 0.8 if 24 < age < 30 or age > 54 else 0.01))
            start(tenants(f"tenant-{self.random.randrange(60):02}"))
            for name, seconds, failing, share in (("orders", 0.12, 0.04, 0.5), ("search", 0.03, 0.02, 0.7)):
                if self.random.random() < share:
                    start(guarded[name](seconds * busy, failing))
            if self.random.random() < 0.15:
                start(guarded["prices"](0.01, 0.1))
            await asyncio.sleep(0.02)
        await asyncio.gather(*running, return_exceptions=True)


def save(picture: bytes, path: Path) -> None:
    """Write a picture with few colours: a third of the size, without a visible difference."""
    Image.open(BytesIO(picture)).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE).save(path, optimize=True)


def take(directory: Path) -> None:
    """Take all pictures."""
    stage = Stage()
    calls = threading.Thread(target=lambda: asyncio.run(stage.run()))
    calls.start()
    try:
        with Server(LiveView(controls=True)) as server, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
            pages = {}
            for name, options in VIEWS.items():
                pages[name] = browser.new_context(**options).new_page()
                pages[name].goto(server.origin)
            time.sleep(SECONDS)
            for name, page in pages.items():
                page.bring_to_front()  # a hidden page is painted late, one part of it after another
                page.wait_for_timeout(500)
                save(page.screenshot(), directory / f"live-{name}.png")
            browser.close()
    finally:
        stage.over = True
        calls.join()


if __name__ == "__main__":
    take(Path(sys.argv[1]))
