"""Groups of errors, as `asyncio.TaskGroup`, anyio and trio raise them: they are judged by the errors in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

__all__ = ["is_cut", "is_group", "leaves"]

_members: Callable[[BaseException], tuple[BaseException, ...]] = cast("Any", BaseExceptionGroup.exceptions).__get__
"""The errors in a group itself, whatever a subclass says."""


def is_group(kind: type[BaseException]) -> bool:
    """Whether errors of this type are groups."""
    return issubclass(kind, BaseExceptionGroup)


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors in a group, and in the groups in it; of any other error itself."""
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if is_group(type(each)):
            waiting += reversed(_members(each))
        else:
            yield each


def is_cut(error: BaseException, cancelled: type[BaseException]) -> bool:
    """Whether an error is a cancellation, of type `cancelled`: also one that came out of a nursery or a task group,
    beside errors that were met while that was cleaned up. With a Ctrl-C among them it is none."""
    if issubclass(type(error), cancelled):
        return True
    if not is_group(type(error)):
        return False
    found = [type(each) for each in leaves(error)]
    return any(issubclass(each, cancelled) for each in found) and all(
        issubclass(each, (Exception, cancelled)) for each in found
    )
