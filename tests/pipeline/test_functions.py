"""Functions: every kind of callable is guarded and keeps its signature, or is refused when it is decorated."""

from __future__ import annotations

import functools
import inspect
import operator
import sys
import types
import typing
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

from resilient import Bulkhead, Fallback, Pipeline, Retry, Timeout
from resilient.core.policy import Policy
from resilient.pipeline import functions


class Flaky:
    """A function that fails the first time, then returns its arguments."""

    def __init__(self) -> None:
        self.calls = 0

    def step(self, *args: Any) -> Any:
        self.calls += 1
        if self.calls == 1:
            raise OSError("the first call fails")
        return args

    async def async_step(self, *args: Any) -> Any:
        return self.step(*args)

    @classmethod
    def class_step(cls, flaky: Flaky, *args: Any) -> Any:
        return flaky.step(*args)

    @staticmethod
    def static_step(flaky: Flaky, *args: Any) -> Any:
        return flaky.step(*args)

    @classmethod
    async def async_class_step(cls, flaky: Flaky, *args: Any) -> Any:
        return flaky.step(*args)

    @staticmethod
    async def async_static_step(flaky: Flaky, *args: Any) -> Any:
        return flaky.step(*args)


class PlainCallable(Flaky):
    def __call__(self, *args: Any) -> Any:
        return self.step(*args)


class AsyncCallable(Flaky):
    async def __call__(self, *args: Any) -> Any:
        return self.step(*args)


class SlottedCallable:
    __slots__ = ("flaky",)

    def __init__(self, flaky: Flaky) -> None:
        self.flaky = flaky

    def __call__(self, *args: Any) -> Any:
        return self.flaky.step(*args)


def function(flaky: Flaky) -> Callable[..., Any]:
    def fetch(*args: Any) -> Any:
        return flaky.step(*args)

    return fetch


def async_function(flaky: Flaky) -> Callable[..., Any]:
    async def fetch(*args: Any) -> Any:
        return flaky.step(*args)

    return fetch


def marked_function(flaky: Flaky) -> Callable[..., Any]:
    def fetch(*args: Any) -> Any:
        return flaky.async_step(*args)

    return inspect.markcoroutinefunction(fetch)  # type: ignore[attr-defined]


SHAPES: dict[str, Callable[[Flaky], Callable[..., Any]]] = {
    "function": function,
    "lambda": lambda flaky: lambda: (flaky.step(), 1),
    "method": lambda flaky: flaky.step,
    "class method": lambda flaky: functools.partial(Flaky.class_step, flaky),
    "static method": lambda flaky: functools.partial(Flaky.static_step, flaky),
    "partial": lambda flaky: functools.partial(function(flaky), 0),
    "partial of partial": lambda flaky: functools.partial(functools.partial(function(flaky), 0), 1),
    "object": lambda flaky: _sharing(PlainCallable(), flaky),
    "object with slots": SlottedCallable,
    "partial of object": lambda flaky: functools.partial(SlottedCallable(flaky)),
    "builtin": lambda flaky: functools.partial(map(flaky.step, [1, 2]).__next__),
    "written in C": lambda flaky: functools.partial(operator.methodcaller("step"), flaky),
    "cached": lambda flaky: functools.lru_cache(function(flaky)),
    "mock": lambda flaky: Mock(side_effect=flaky.step),
}

ASYNC_SHAPES: dict[str, Callable[[Flaky], Callable[..., Any]]] = {
    "function": async_function,
    "method": lambda flaky: flaky.async_step,
    "class method": lambda flaky: functools.partial(Flaky.async_class_step, flaky),
    "static method": lambda flaky: functools.partial(Flaky.async_static_step, flaky),
    "partial": lambda flaky: functools.partial(async_function(flaky), 0),
    "partial of partial": lambda flaky: functools.partial(functools.partial(async_function(flaky), 0), 1),
    "object": lambda flaky: _sharing(AsyncCallable(), flaky),
    "partial of object": lambda flaky: functools.partial(_sharing(AsyncCallable(), flaky)),
    "mock": lambda flaky: AsyncMock(side_effect=flaky.step),
}
if sys.version_info >= (3, 12):
    ASYNC_SHAPES["marked function"] = marked_function


def _sharing(shape: Any, flaky: Flaky) -> Any:
    """An object with `__call__` that shares the steps of `flaky`."""
    shape.step = flaky.step
    return shape


twice = Retry(attempts=2, wait=0)


# -- what is guarded --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_decorator_around_any_plain_callable_guards_it(shape: Callable[[Flaky], Callable[..., Any]]) -> None:
    """Every callable is really guarded: its first failure is repeated."""
    flaky = Flaky()
    guarded = twice(shape(flaky))
    assert not inspect.iscoroutinefunction(guarded)
    guarded()
    assert flaky.calls == 2


@pytest.mark.parametrize("shape", ASYNC_SHAPES.values(), ids=ASYNC_SHAPES)
async def test_decorator_around_any_async_callable_guards_it(shape: Callable[[Flaky], Callable[..., Any]]) -> None:
    """A coroutine function of any kind is guarded while it runs, not only while it makes its coroutine."""
    flaky = Flaky()
    guarded = twice(shape(flaky))
    assert inspect.iscoroutinefunction(guarded)
    await guarded()
    assert flaky.calls == 2


def test_decorator_passes_arguments_and_result() -> None:
    """Positional and keyword arguments arrive as they were given, and the result object is returned itself."""
    answer = object()
    seen: list[Any] = []

    @twice
    def fetch(*args: Any, **kwargs: Any) -> object:
        seen.append((args, kwargs))
        return answer

    assert fetch(1, fn=2, self=3, call=4) is answer
    assert seen == [((1,), {"fn": 2, "self": 3, "call": 4})]


async def test_decorator_on_async_passes_arguments_of_any_name() -> None:
    """The library reserves no argument name."""

    @twice
    async def fetch(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    assert await fetch(1, fn=2, self=3, call=4) == ((1,), {"fn": 2, "self": 3, "call": 4})


def test_builtin_is_guarded_and_keeps_its_signature() -> None:
    """A function written in C is guarded like any other."""
    guarded = twice(len)
    assert guarded([1, 2]) == 2
    assert guarded.__name__ == "len"
    assert inspect.signature(guarded) == inspect.signature(len)


# -- in classes -------------------------------------------------------------------------------------------------------


class Service:
    """Guarded methods of every kind. Each fails once per instance or class, and then returns what it was called on."""

    calls = 0

    def __init__(self, name: str) -> None:
        self.name = name
        self.calls = 0

    def _once(self) -> str:
        self.calls += 1
        if self.calls == 1:
            raise OSError
        return self.name

    @twice
    def method(self, extra: int = 0) -> str:
        """The method's own words."""
        return self._once() + "!" * extra

    @twice
    async def async_method(self) -> str:
        return self._once()

    @classmethod
    @twice
    def class_inside(cls, word: str) -> tuple[type, str]:
        return cls, word

    @twice
    @classmethod
    def class_outside(cls, word: str) -> tuple[type, str]:
        return cls, word

    @staticmethod
    @twice
    def static_inside(word: str) -> str:
        return word

    @twice
    @staticmethod
    def static_outside(word: str) -> str:
        return word

    @twice
    @classmethod
    async def async_class_outside(cls, word: str) -> tuple[type, str]:
        return cls, word

    @property
    @twice
    def guarded_property(self) -> str:
        return self._once()


class SubService(Service):
    pass


def test_method_guarded_in_class_works_per_instance() -> None:
    """A guarded method is bound to each instance as usual."""
    first, second = Service("first"), Service("second")
    assert (first.method(), second.method(2)) == ("first", "second!!")
    assert (first.calls, second.calls) == (2, 2)


async def test_async_method_guarded_in_class_works_per_instance() -> None:
    """A guarded coroutine method is bound to each instance, too."""
    first, second = Service("first"), Service("second")
    assert [await first.async_method(), await second.async_method()] == ["first", "second"]
    assert inspect.iscoroutinefunction(first.async_method)


@pytest.mark.parametrize("name", ["class_inside", "class_outside"])
def test_class_method_is_guarded_in_either_order_of_decorators(name: str) -> None:
    """`@pipeline @classmethod` and `@classmethod @pipeline` both give a guarded class method."""
    assert getattr(Service, name)("hi") == (Service, "hi")
    assert getattr(SubService("x"), name)("hi") == (SubService, "hi")
    assert isinstance(Service.__dict__[name], classmethod)
    assert hasattr(getattr(Service, name), "__wrapped__")


@pytest.mark.parametrize("name", ["static_inside", "static_outside"])
def test_static_method_is_guarded_in_either_order_of_decorators(name: str) -> None:
    """`@pipeline @staticmethod` and `@staticmethod @pipeline` both give a guarded static method."""
    assert getattr(Service, name)("hi") == "hi"
    assert getattr(Service("x"), name)("hi") == "hi"
    assert isinstance(Service.__dict__[name], staticmethod)
    assert hasattr(getattr(Service, name), "__wrapped__")


async def test_async_class_method_is_guarded_from_outside() -> None:
    """A guarded coroutine class method is still a coroutine function."""
    assert await Service.async_class_outside("hi") == (Service, "hi")
    assert inspect.iscoroutinefunction(Service.async_class_outside)


@pytest.mark.parametrize("kind", [classmethod, staticmethod])
def test_class_and_static_methods_are_really_guarded_from_outside(kind: Any) -> None:
    """The descriptor holds the guarded function, not the bare one."""
    flaky = Flaky()
    guarded = twice(kind(function(flaky)))
    owner = type("Owner", (), {"fetch": guarded})
    owner.fetch()  # type: ignore[attr-defined]
    assert flaky.calls == 2


def test_property_over_guarded_function_works() -> None:
    """A getter is guarded below `@property`."""
    assert Service("x").guarded_property == "x"


# -- name and signature -----------------------------------------------------------------------------------------------


def documented(a: int, /, b: str = "b", *args: float, c: bool, **kwargs: bytes) -> list[str]:
    """What it does."""
    return []


async def documented_async(a: int, /, b: str = "b", *args: float, c: bool, **kwargs: bytes) -> list[str]:
    """What it does."""
    return []


@pytest.mark.parametrize("fn", [documented, documented_async])
def test_guarded_function_keeps_name_docstring_signature_and_annotations(fn: Callable[..., Any]) -> None:
    """Tools and readers see the name, docstring, signature and annotations of the function."""
    guarded = Pipeline(Retry())(fn)
    for attribute in ("__name__", "__qualname__", "__doc__", "__module__", "__annotations__"):
        assert getattr(guarded, attribute) == getattr(fn, attribute)
    assert inspect.signature(guarded) == inspect.signature(fn)
    assert typing.get_type_hints(guarded) == typing.get_type_hints(fn)
    assert inspect.unwrap(guarded) is fn


def test_guarded_function_keeps_attributes() -> None:
    """Attributes that other decorators have set stay."""

    def fetch() -> None: ...

    fetch.mark = "kept"  # type: ignore[attr-defined]
    assert twice(fetch).mark == "kept"  # type: ignore[attr-defined]


def test_guarded_method_keeps_name_docstring_and_signature() -> None:
    """This holds for bound and for unbound methods."""
    assert (Service.method.__qualname__, Service.method.__doc__) == ("Service.method", "The method's own words.")
    assert str(inspect.signature(Service.method)) == "(self, extra: 'int' = 0) -> 'str'"
    assert str(inspect.signature(Service("x").method)) == "(extra: 'int' = 0) -> 'str'"


def test_guarded_partial_is_known_by_its_function() -> None:
    """A partial has no name: it gets that of its function, and the signature that is left."""
    fn = functools.partial(functools.partial(documented, 1), c=True)
    guarded = twice(fn)
    assert (guarded.__name__, guarded.__qualname__, guarded.__module__) == ("documented", "documented", __name__)
    assert guarded.__doc__ == "What it does."
    assert inspect.signature(guarded) == inspect.signature(fn)
    assert typing.get_type_hints(guarded) == typing.get_type_hints(documented)


def test_guarded_partial_keeps_a_docstring_of_its_own() -> None:
    """A partial may have its own docstring, as the documentation of functools shows."""
    fn = functools.partial(documented, 1)
    fn.__doc__ = "Its own words."
    assert twice(fn).__doc__ == "Its own words."


class Fetcher:
    """Fetches."""

    timeout: float = 3.0

    def __init__(self) -> None:
        self.fetched = 0

    def __call__(self, key: int) -> bytes:
        """Fetch one."""
        return b""


def test_guarded_object_is_known_by_its_class() -> None:
    """An object with `__call__` gets the name and docstring of its class, and the signature of `__call__`."""
    guarded = twice(Fetcher())
    assert (guarded.__name__, guarded.__qualname__, guarded.__doc__) == ("Fetcher", "Fetcher", "Fetches.")
    assert str(inspect.signature(guarded)) == "(key: 'int') -> 'bytes'"
    assert guarded.__annotations__ == {"key": "int", "return": "bytes"}


def test_guarded_object_does_not_copy_the_state_of_the_object() -> None:
    """Copies of an object's attributes would soon be out of date."""
    assert not hasattr(twice(Fetcher()), "fetched")


@pytest.mark.filterwarnings("ignore::resilient.PipelineWarning")
def test_guarding_twice_applies_both() -> None:
    """A guarded function can be guarded again, and keeps the name of the first."""
    steps: list[int] = []

    def fetch() -> None:
        steps.append(len(steps))
        if len(steps) < 4:
            raise OSError

    guarded = Retry(attempts=2, wait=0)(Retry(attempts=2, wait=0)(fetch))
    guarded()
    assert len(steps) == 4
    assert guarded.__name__ == "fetch"


# -- refused ----------------------------------------------------------------------------------------------------------


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


@types.coroutine
def old_coroutine() -> Iterator[Any]:
    yield


class GeneratorCallable:
    def __call__(self) -> Iterator[int]:
        yield 1

    def method(self) -> Iterator[int]:
        yield 1

    async def async_method(self) -> AsyncIterator[int]:
        yield 1


class AsyncGeneratorCallable:
    async def __call__(self) -> AsyncIterator[int]:
        yield 1


GENERATORS = {
    "generator": generator,
    "async generator": async_generator,
    "generator-based coroutine": old_coroutine,
    "partial of generator": functools.partial(generator),
    "partial of async generator": functools.partial(async_generator),
    "generator method": GeneratorCallable().method,
    "async generator method": GeneratorCallable().async_method,
    "object with generator __call__": GeneratorCallable(),
    "object with async generator __call__": AsyncGeneratorCallable(),
    "static method": staticmethod(generator),
    "class method": classmethod(async_generator),
}


@pytest.mark.parametrize("fn", GENERATORS.values(), ids=GENERATORS)
def test_generator_of_any_shape_is_refused_when_decorated(fn: Any) -> None:
    """A generator makes its items after the call has returned, where no policy would see them."""
    with pytest.raises(TypeError, match=r"cannot guard the generator .*: its items .*; guard the function that"):
        twice(fn)


@pytest.mark.parametrize("thing", [7, "fetch", None, object()], ids=repr)
def test_what_cannot_be_called_is_refused_when_decorated(thing: Any) -> None:
    """The message names the object, and the reason."""
    with pytest.raises(TypeError, match=r"cannot guard .* it cannot be called") as caught:
        twice(thing)
    assert repr(thing) in str(caught.value)


def test_class_is_refused_when_decorated() -> None:
    """A guarded class would no longer be a class."""
    with pytest.raises(TypeError, match="cannot guard the class Service: guard its methods, or a function"):
        twice(Service)


def test_coroutine_is_refused_with_what_to_pass_instead() -> None:
    """A coroutine can run only once; the message asks for the function that makes it."""
    coroutine = documented_async(1, c=True)
    with pytest.raises(TypeError, match="pass the function itself, not the coroutine"):
        twice(coroutine)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="pass the function itself, not the coroutine"):
        Pipeline(twice).call(coroutine)  # type: ignore[arg-type]
    coroutine.close()


def test_refusal_is_the_same_for_call() -> None:
    """`pipeline.call` refuses the same functions as the decorator."""
    with pytest.raises(TypeError, match="cannot guard the generator"):
        Pipeline(twice).call(generator)


# -- a def that returns an awaitable ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [lambda fn: fn, functools.partial, functools.lru_cache, lambda fn: Mock(wraps=fn)])
def test_plain_function_that_returns_a_coroutine_raises_at_the_call(shape: Any) -> None:
    """The coroutine would run unguarded: it is closed, `TypeError` is raised, and nothing is repeated."""
    made: list[Any] = []

    async def fetch() -> int:
        return 1

    def make() -> Any:
        made.append(fetch())
        return made[-1]

    with pytest.raises(TypeError, match=r"is a plain def but returned coroutine, .* make it an async def"):
        twice(shape(make))()
    assert [inspect.getcoroutinestate(each) for each in made] == [inspect.CORO_CLOSED]


def test_plain_function_that_returns_another_awaitable_raises_at_the_call() -> None:
    """A future is refused as a result, too."""

    class Later:
        def __await__(self) -> Iterator[Any]:
            yield

    with pytest.raises(TypeError, match="fetch_later is a plain def but returned Later"):

        @twice
        def fetch_later() -> Later:
            return Later()

        fetch_later()


class Everything:
    """A result that has every attribute, also `__await__`."""

    def __getattr__(self, name: str) -> Any:
        return Everything()


def test_plain_function_may_return_an_object_that_answers_every_attribute() -> None:
    """Such an object is an ordinary result: the call has succeeded."""
    results: list[Any] = []

    @twice
    def fetch() -> Any:
        results.append(Everything())
        return results[-1]

    assert [fetch()] == results


def test_types_of_results_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program may make a class for each result, as mock libraries do."""
    monkeypatch.setattr(functions, "MOST_PLAIN", 3)

    @twice
    def guarded() -> Any:
        return type("Row", (), {})()

    for _ in range(10):
        guarded()
    assert len(functions.plain_types) <= 3


async def test_async_function_may_return_an_awaitable() -> None:
    """An awaitable result of a coroutine function is returned unchanged."""

    async def inner() -> int:
        return 1

    @twice
    async def fetch() -> Any:
        return inner()

    assert await (await fetch()) == 1


def test_stop_iteration_of_a_plain_function_reaches_the_caller() -> None:
    """Policies are coroutines, which cannot raise it; a guarded `next` still does."""
    done = StopIteration("value")

    @Pipeline(Retry(attempts=1))
    def fetch() -> None:
        raise done

    with pytest.raises(StopIteration) as caught:
        fetch()
    assert caught.value is done


@pytest.mark.parametrize(
    "policies",
    [
        (Retry(on=ValueError),),
        (Fallback(0, on=ValueError),),
        (Retry(2, wait=0),),
        (Timeout(60, thread=True), Bulkhead(1), Retry(2, wait=0)),
        (Fallback(0, on=ValueError), Timeout(60, thread=True), Bulkhead(1), Retry(2, wait=0)),
    ],
    ids=str,
)
def test_stop_iteration_reaches_the_caller_past_policies(policies: tuple[Policy, ...]) -> None:
    """It passes policies that repeat the call and those that do not."""
    done = StopIteration("value")

    @Pipeline(*policies)
    def fetch() -> None:
        raise done

    with pytest.raises(StopIteration) as caught:
        fetch()
    assert caught.value is done


def test_function_that_seems_to_wrap_itself_is_guarded() -> None:
    """The search for policies beneath a function ends."""

    def answer() -> int:
        return 42

    answer.__wrapped__ = answer  # type: ignore[attr-defined]
    assert Pipeline(Retry())(answer)() == 42
