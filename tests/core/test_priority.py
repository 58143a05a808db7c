"""Priorities: code that is called or started in a block inherits its priority."""

import asyncio

import pytest

from resilient import current_priority, priority


def test_priority_without_a_block_is_normal() -> None:
    """Outside all blocks the priority is "normal"."""
    assert current_priority() == "normal"


def test_priority_holds_inside_its_block_and_the_one_around_holds_again_after_it() -> None:
    """The innermost block counts, in either direction."""
    with priority("critical"):
        with priority("sheddable"):
            assert current_priority() == "sheddable"
        assert current_priority() == "critical"
    assert current_priority() == "normal"


async def test_priority_reaches_tasks_and_threads_begun_inside() -> None:
    """Tasks and threads that are started inside inherit the priority."""

    async def ask() -> str:
        return current_priority()

    with priority("sheddable"):
        task = asyncio.create_task(ask())
        thread = asyncio.to_thread(current_priority)
    assert await task == "sheddable"
    assert await thread == "normal"  # it had not begun inside
    assert current_priority() == "normal"


async def test_priority_of_a_generator_that_is_dropped_disturbs_nobody() -> None:
    """A block that is closed in another context has nothing to take back there."""

    async def numbers():  # type: ignore[no-untyped-def]
        with priority("critical"):
            yield 1

    generator = numbers()
    await generator.__anext__()
    await asyncio.create_task(generator.aclose())  # raises nothing


@pytest.mark.parametrize("name", ["urgent", "", "Critical", None, 1])
def test_priority_unknown_is_refused_by_name(name: object) -> None:
    """An unknown priority is refused, because no policy could treat it as meant."""
    with pytest.raises(ValueError, match="critical, normal, sheddable"):
        priority(name)  # type: ignore[arg-type]
