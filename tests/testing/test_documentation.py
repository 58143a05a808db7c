"""Every example of docs/testing.md is a test file, and it passes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from resilient import Pipeline, Retry, Timeout
from resilient.testing import Dependency, Hang, record

DOCUMENT = Path(__file__).parents[2] / "docs" / "testing.md"

pytest_plugins = ["pytester"]


def test_examples_pass(pytester: pytest.Pytester) -> None:
    """In a suite of their own that has nothing configured."""
    examples = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    tests = sum(example.count("def test_") for example in examples)
    assert len(examples) >= 6
    pytester.makepyfile(**{f"test_example_{number}": example for number, example in enumerate(examples)})
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\naddopts = -p no:cacheprovider")
    pytester.runpytest_inprocess().assert_outcomes(passed=tests)


@pytest.mark.virtual_time
async def test_message_is_the_one_that_is_shown() -> None:
    """Line by line, as far as it is shown."""
    shown = re.findall(r"^```text\nAssertionError: (.*?)^  \.\.\.\n```", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    users = Pipeline(Timeout(60), Retry(attempts=4, wait=1), Timeout(2), name="users")
    with record(users) as recorder:
        await users(Dependency(ConnectionError("down"), Hang(), default="Ada", name="get_user"))(7)
    with pytest.raises(AssertionError) as caught:
        recorder.assert_happened("Retrying", times=3)
    assert str(caught.value).startswith(shown[0])
