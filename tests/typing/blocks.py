# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""What type checkers make of guarded blocks."""

from typing import Any, assert_type

from resilient import Pipeline, Retry

users = Pipeline(Retry())


async def in_async_code() -> int:
    found = 0
    async for attempt in users.attempts("find"):
        async with attempt:
            assert_type(attempt.number, int)
            assert_type(attempt.result, Any)
            found = 7
            attempt.result = found
    return found


def in_plain_code() -> int:
    found = 0
    for attempt in users.attempts():
        with attempt as same:
            assert_type(same.number, int)
            found = 7
    return found


def that_returns() -> int:
    """A block may swallow its error, so checkers ask for what follows the loop."""
    for attempt in users.attempts():
        with attempt:
            return 7
    raise AssertionError("the loop ends by returning or by raising")


users.attempts(name=7)  # type: ignore[arg-type]


async def misuse() -> None:
    async with users.attempts():  # type: ignore[attr-defined]
        pass
    await users.attempts()  # type: ignore[misc]
