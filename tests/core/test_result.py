"""What a result is, is found from its type; no attribute of a result is read."""

from __future__ import annotations

import asyncio
import io
import types
import unittest.mock
import xmlrpc.client
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import addict
import aiohttp
import httpx
import httpx2
import pytest
import requests
import urllib3

from resilient.core.result import closing_of, is_awaitable, is_of_one_use


class Everything:
    """An object that has every attribute, like `addict.Dict` and some proxies."""

    def __getattr__(self, name: str) -> Any:
        return Everything()


class Lazy:
    """A lazy object whose factory fails whenever an attribute is read."""

    def __getattribute__(self, name: str) -> Any:
        raise OSError("not now")


class Transparent(Lazy):
    """A proxy of an object that does not exist, like werkzeug's `LocalProxy` and lazy-object-proxy's `Proxy`."""

    @property
    def __class__(self) -> type:
        raise OSError("not now")

    @__class__.setter
    def __class__(self, kind: type) -> None: ...

    def __await__(self) -> Iterator[Any]:
        raise OSError("not now")

    def close(self) -> None:
        raise OSError("not now")


DYNAMIC: dict[str, Callable[[], Any]] = {
    "answers everything": Everything,
    "addict": lambda: addict.Dict({"id": 7}),
    "addict with a status": lambda: addict.Dict({"status": 200, "close": 1}),
    "xmlrpc": lambda: xmlrpc.client.ServerProxy("http://127.0.0.1:9"),
    "Mock": unittest.mock.Mock,
    "MagicMock": unittest.mock.MagicMock,
    "Mock of a response": lambda: unittest.mock.Mock(spec=httpx.Response),
    "lazy": Lazy,
    "transparent": Transparent,
    "a class of awaitables": lambda: asyncio.Future,
    "a class that closes": lambda: io.BytesIO,
}


@pytest.mark.parametrize("make", DYNAMIC.values(), ids=DYNAMIC)
def test_dynamic_result_is_plain(make: Callable[[], Any]) -> None:
    """A dynamic object need not be awaited and cannot be closed, whatever its attributes say."""
    assert not is_awaitable(make())
    assert closing_of(make(), awaits=True) is None


async def _coroutine() -> None: ...


@types.coroutine
def _old_coroutine() -> Iterator[None]:
    yield


def _items() -> Iterator[int]:
    yield 1


async def _async_items() -> AsyncIterator[int]:
    yield 1


class _Awaitable:
    def __await__(self) -> Iterator[Any]:
        yield


class _ProxyThatAwaits(Everything):
    """A wrapper with `__class__` in one of its classes and `__await__` in another."""

    @property
    def __class__(self) -> type:
        return dict

    @__class__.setter
    def __class__(self, kind: type) -> None: ...


class _Traced(_ProxyThatAwaits):
    def __await__(self) -> Iterator[Any]:
        yield


@pytest.mark.parametrize("make", [_old_coroutine, _Awaitable, _Traced], ids=lambda make: make.__name__)
def test_awaitable_is_known_by_its_type(make: Callable[[], Any]) -> None:
    """A coroutine of a decorated generator is awaitable, and so is a wrapper that defines `__await__` itself."""
    assert is_awaitable(make())
    assert not is_awaitable(_items())


async def test_coroutine_and_future_are_awaitable() -> None:
    """A coroutine and an asyncio future are awaitable."""
    coroutine = _coroutine()
    assert is_awaitable(coroutine)
    assert is_awaitable(asyncio.get_running_loop().create_future())
    await coroutine


def _requests_response() -> requests.Response:
    response = requests.Response()
    response.status_code = 503
    return response


ONE_USE: dict[str, Callable[[], Any]] = {
    "httpx": lambda: httpx.Response(503),
    "httpx2": lambda: httpx2.Response(200),
    "requests": _requests_response,
    "urllib3": urllib3.HTTPResponse,
    "a file": io.BytesIO,
    "a generator": _items,
    "an asynchronous generator": _async_items,
}


@pytest.mark.parametrize("make", ONE_USE.values(), ids=ONE_USE)
def test_response_or_stream_is_of_one_use(make: Callable[[], Any]) -> None:
    """Responses of clients, iterators and files are of one use, and can be closed."""
    assert is_of_one_use(make())
    assert closing_of(make(), awaits=True) is not None


def test_response_of_aiohttp_is_of_one_use() -> None:
    """A response of aiohttp is recognised, although its status is an attribute of the instance."""
    response: Any = aiohttp.ClientResponse.__new__(aiohttp.ClientResponse)
    response.status = 200
    assert is_of_one_use(response)
    response._closed = True  # for its `__del__`


@pytest.mark.parametrize("make", [httpx.Client, requests.Session, asyncio.new_event_loop, urllib3.PoolManager])
def test_session_is_not_of_one_use(make: Callable[[], Any]) -> None:
    """A session may come from a pool or a cache, where other callers use it."""
    session = make()
    assert not is_of_one_use(session)
    getattr(session, "close", session.clear if hasattr(session, "clear") else None)()


def test_status_that_is_not_of_http_makes_no_response() -> None:
    """A connection or a job with a `status` of 1 ("ready") is no response."""

    class Connection:
        def __init__(self, status: object) -> None:
            self.status = status

        def close(self) -> None: ...

    assert [is_of_one_use(Connection(status)) for status in (1, True, "open", None, 200)] == [False] * 4 + [True]
