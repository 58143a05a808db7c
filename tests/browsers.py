"""A real browser for tests: Chromium, driven by playwright.

The program is taken from the environment variable RESILIENT_CHROMIUM or the PATH. Without it a test is skipped with the
reason, or fails when the environment variable RESILIENT_REQUIRE contains "chromium".
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

__all__ = ["browser", "find_chromium"]

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_chromium() -> str:
    """Return the path of the program. Raises `LookupError` that says where it was sought."""
    named = os.environ.get("RESILIENT_CHROMIUM")
    if named:
        found = shutil.which(named)
        if found is None:
            raise LookupError(f"RESILIENT_CHROMIUM={named} is no program")
        return found
    for name in NAMES:
        found = shutil.which(name)
        if found is not None:
            return found
    raise LookupError(f"RESILIENT_CHROMIUM is not set, and none of {', '.join(NAMES)} is on the PATH")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser without a window, for the tests of one module. In it, evil.example is this machine."""
    try:
        program = find_chromium()
    except LookupError as error:
        if "chromium" in os.environ.get("RESILIENT_REQUIRE", ""):
            pytest.fail(f"RESILIENT_REQUIRE asks for it: {error}")
        pytest.skip(str(error))
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=program,
            args=["--no-sandbox", "--host-resolver-rules=MAP evil.example 127.0.0.1"],
        )
        yield started
        started.close()
