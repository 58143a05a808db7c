# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""What type checkers make of decorated functions: the same type as before, in every shape; misuse is an error."""

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import partial
from typing import Any, TypeVar, assert_type

from resilient import Bulkhead, CircuitBreaker, Pipeline, Retry, Timeout

T = TypeVar("T")

users = Pipeline(Timeout(10), Retry(attempts=3), Bulkhead(50, queue=100), CircuitBreaker(), Timeout(2), name="users")


class User:
    name: str = ""


# -- functions ------------------------------------------------------------------------------------------------------


@users
async def get_user(user_id: int, *, fresh: bool = False) -> User:
    return User()


@users
def load_user(user_id: int, *, fresh: bool = False) -> User:
    return User()


@Retry(attempts=3)
async def by_one_policy(key: str) -> bytes:
    return b""


@Timeout(1)
@Bulkhead(5)
@CircuitBreaker()
def by_several_policies(key: str) -> bytes:
    return b""


@users
def first(items: list[T]) -> T:
    return items[0]


async def use_functions() -> None:
    made: Coroutine[Any, Any, User] = get_user(7, fresh=True)
    assert_type(await made, User)
    assert_type(await get_user(7), User)
    assert_type(load_user(7), User)
    assert_type(await by_one_policy("a"), bytes)
    assert_type(by_several_policies("a"), bytes)
    assert_type(first([1, 2]), int)
    as_callback: Callable[[int], Coroutine[Any, Any, User]] = get_user
    assert_type(await as_callback(1), User)

    await get_user("seven")  # type: ignore[arg-type]
    await get_user()  # type: ignore[call-arg]
    await get_user(7, stale=True)  # type: ignore[call-arg]
    load_user(7, True)  # type: ignore[call-arg]
    await load_user(7)  # type: ignore[misc]
    print(get_user(7).name)  # type: ignore[attr-defined]


# -- methods --------------------------------------------------------------------------------------------------------


class Service:
    @users
    async def get(self, key: str) -> bytes:
        return b""

    @users
    def load(self, key: str) -> bytes:
        return b""

    @classmethod
    @users
    async def make(cls, key: str) -> bytes:
        return b""

    @staticmethod
    @users
    async def static(key: str) -> bytes:
        return b""

    @users
    @classmethod
    def class_outside(cls, key: str) -> bytes:
        return b""

    @users
    @staticmethod
    def static_outside(key: str) -> bytes:
        return b""

    @property
    @users
    def size(self) -> int:
        return 0


class Kept:
    """A class of which each instance guards a function of its own."""

    def __init__(self, service: Service) -> None:
        self.get = users(service.get)


async def use_methods(service: Service) -> None:
    assert_type(await service.get("a"), bytes)
    assert_type(service.load("a"), bytes)
    assert_type(await Service.make("a"), bytes)
    assert_type(await service.make("a"), bytes)
    assert_type(await Service.static("a"), bytes)
    assert_type(Service.class_outside("a"), bytes)
    assert_type(Service.static_outside("a"), bytes)
    assert_type(service.size, int)
    assert_type(await Kept(service).get("a"), bytes)

    await service.get(7)  # type: ignore[arg-type]
    await service.get("a", "b")  # type: ignore[call-arg]
    await Service.static(7)  # type: ignore[arg-type]
    Service.class_outside(7)  # type: ignore[arg-type]


# -- other callables ------------------------------------------------------------------------------------------------


class Fetcher:
    async def __call__(self, key: str) -> bytes:
        return b""


def add(a: int, b: int) -> int:
    return a + b


async def use_other_callables() -> None:
    assert_type(await users(Fetcher())("a"), bytes)
    assert_type(users(partial(add, 1))(2), int)
    assert_type(users(len)("abc"), int)

    users(7)  # type: ignore[arg-type]
    users(get_user(7))  # type: ignore[arg-type]
    Retry(3)("fetch")  # type: ignore[arg-type]


# -- call -----------------------------------------------------------------------------------------------------------


async def fetch(query: str, *, limit: int = 10) -> list[str]:
    return []


async def pages() -> AsyncIterator[int]:
    yield 1


def lines() -> Iterator[str]:
    yield ""


async def use_call() -> None:
    assert_type(await users.call(fetch, "q", limit=5), list[str])
    assert_type(users.call(add, 1, b=2), int)
    assert_type(await users.call(Service().get, "a"), bytes)

    await users.call(fetch, 7)  # type: ignore[arg-type]
    await users.call(fetch, "q", pages=5)  # type: ignore[call-arg]
    await users.call(fetch)  # type: ignore[call-arg]
    users.call(fn=add, a=1, b=2)  # type: ignore[call-arg]
    await users.call(add, 1, 2)  # type: ignore[misc]
