"""The checks of arguments: what each accepts and refuses, and its messages."""

from __future__ import annotations

import functools
import math
from collections.abc import AsyncIterator, Callable, Iterator
from fractions import Fraction
from typing import Any
from unittest.mock import AsyncMock

import pytest

from resilient import _validation


def called(value: Any) -> str:
    """A test id that is the same in every run."""
    return str(getattr(value, "__qualname__", type(value).__qualname__))


def plain(value: Any) -> bool:
    return bool(value)


async def later(value: Any) -> bool:
    return bool(value)


def generator(value: Any) -> Iterator[bool]:
    yield bool(value)


async def async_generator(value: Any) -> AsyncIterator[bool]:
    yield bool(value)


class Answers:
    def __call__(self, value: Any) -> bool:
        return bool(value)

    def method(self, value: Any) -> bool:
        return bool(value)


class Generates:
    def __call__(self, value: Any) -> Iterator[bool]:
        yield bool(value)


class AnswersLater:
    async def __call__(self, value: Any) -> bool:
        return bool(value)

    async def method(self, value: Any) -> bool:
        return bool(value)


@pytest.mark.parametrize("value", [1, 0.5, 1e-9, 1e308, Fraction(1, 3)])
def test_seconds_of_a_duration_returns_it_as_a_float(value: Any) -> None:
    """Every finite real number above zero is a duration."""
    assert _validation.seconds("limit", value) == float(value)
    assert type(_validation.seconds("limit", value)) is float


@pytest.mark.parametrize("value", [0, -0.0, -1, -1e-9, math.inf, -math.inf, math.nan, 10**400, -(10**400)])
def test_seconds_of_an_impossible_number_raises_value_error(value: Any) -> None:
    """A number that is no duration is refused by name and value, also one too large for a float."""
    with pytest.raises(ValueError) as caught:
        _validation.seconds("limit", value)
    assert str(caught.value) == f"limit must be a finite number of seconds > 0, got {value!r}"


@pytest.mark.parametrize("value", [True, False, "1", b"1", None, [1], 1j, object()])
def test_seconds_of_no_number_raises_type_error(value: Any) -> None:
    """A bool or a string is not taken for the number it could be turned into."""
    with pytest.raises(TypeError) as caught:
        _validation.seconds("limit", value)
    assert str(caught.value).startswith(f"limit must be a finite number of seconds > 0, got {value!r}")


def test_seconds_with_zero_accepts_zero_and_nothing_below() -> None:
    """`zero=True` moves the bound by exactly one value."""
    assert _validation.seconds("wait", 0, zero=True) == 0.0
    with pytest.raises(ValueError, match=r"^wait must be a finite number of seconds >= 0, got -1e-09$"):
        _validation.seconds("wait", -1e-9, zero=True)


@pytest.mark.parametrize("value", [1, 1.0, 0.5, 1e-9])
def test_share_of_a_ratio_returns_it(value: float) -> None:
    """A share is above 0 and at most 1."""
    assert _validation.share("rate", value) == value


@pytest.mark.parametrize("value", [0, -0.1, 1.0000001, 50, math.inf, math.nan, 10**400])
def test_share_outside_zero_to_one_raises_value_error(value: float) -> None:
    """Percentages, zero and NaN are refused as shares."""
    with pytest.raises(ValueError) as caught:
        _validation.share("rate", value)
    assert str(caught.value).startswith(f"rate must be a share above 0 and at most 1, got {value!r}")


@pytest.mark.parametrize("value", [True, "0.5", None])
def test_share_of_no_number_raises_type_error(value: Any) -> None:
    """`True` is not a share of 1."""
    with pytest.raises(TypeError) as caught:
        _validation.share("rate", value)
    assert str(caught.value).startswith(f"rate must be a share above 0 and at most 1, got {value!r}")


def test_count_returns_a_whole_number_from_least_on() -> None:
    """A count of at least `least` is returned, `least` itself included."""
    assert _validation.count("calls", 1) == 1
    assert _validation.count("calls", 0, least=0) == 0
    assert _validation.count("calls", 10**20) == 10**20


@pytest.mark.parametrize(("value", "least"), [(0, 1), (-1, 1), (-1, 0), (-(10**400), 1)])
def test_count_below_least_raises_value_error(value: int, least: int) -> None:
    """A number of things cannot be below its least value."""
    with pytest.raises(ValueError) as caught:
        _validation.count("calls", value, least=least)
    assert str(caught.value) == f"calls must be a whole number >= {least}, got {value!r}"


@pytest.mark.parametrize("value", [True, False, 1.0, 2.5, "3", None, math.inf, math.nan])
def test_count_of_no_whole_number_raises_type_error(value: Any) -> None:
    """Floats are refused even where they are whole: they come from a calculation that may not be."""
    with pytest.raises(TypeError) as caught:
        _validation.count("calls", value)
    assert str(caught.value).startswith(f"calls must be a whole number >= 1, got {value!r}")


@pytest.mark.parametrize("value", ["", " ", "\t\n", "\u2003"])
def test_name_without_a_visible_letter_raises_value_error(value: str) -> None:
    """A blank name would be invisible in events and dashboards."""
    with pytest.raises(ValueError) as caught:
        _validation.name("name", value)
    assert str(caught.value) == f"name must not be empty or blank, got {value!r}"


@pytest.mark.parametrize("value", [None, 5, b"users", ["users"], True])
def test_name_of_no_string_raises_type_error(value: Any) -> None:
    """Bytes and numbers are refused as names."""
    with pytest.raises(TypeError) as caught:
        _validation.name("name", value)
    assert str(caught.value) == f"name must be a string, got {value!r}"


def test_name_returns_the_string_as_it_is() -> None:
    """Nothing is stripped: what was given is what is shown."""
    assert _validation.name("name", " users ") == " users "


@pytest.mark.parametrize("value", [0, 1, "no", None, []])
def test_flag_of_no_bool_raises_type_error(value: Any) -> None:
    """`"no"` is true in Python; so only a bool will do."""
    with pytest.raises(TypeError) as caught:
        _validation.flag("strict", value)
    assert str(caught.value) == f"strict must be True or False, got {value!r}"


def test_flag_returns_the_bool() -> None:
    """True and False are returned as they are."""
    assert _validation.flag("strict", True) is True
    assert _validation.flag("strict", False) is False


PLAIN: list[Callable[..., Any]] = [
    *(plain, lambda value: value, print, [].append, Answers(), Answers().method),
    *(functools.partial(plain), functools.partial(Answers()), str.strip),
]
LATER: list[Callable[..., Any]] = [
    *(later, AnswersLater(), AnswersLater().method, AsyncMock()),
    *(functools.partial(later), functools.partial(functools.partial(AnswersLater()))),
]


@pytest.mark.parametrize("value", PLAIN, ids=called)
def test_callback_of_a_plain_callable_returns_it(value: Callable[..., Any]) -> None:
    """Functions, methods, partials, built-ins and objects with `__call__` are callbacks."""
    assert _validation.callback("results", value) is value


@pytest.mark.parametrize("value", LATER, ids=called)
def test_callback_whose_answer_would_be_a_coroutine_raises_type_error(value: Callable[..., Any]) -> None:
    """An async callback is refused: its answer would not be awaited, and a coroutine is always true."""
    with pytest.raises(TypeError) as caught:
        _validation.callback("results", value)
    assert str(caught.value) == f"results must be a plain function, whose answer is not awaited, got {value!r}"


@pytest.mark.parametrize("value", [*PLAIN, *LATER], ids=called)
def test_strategy_of_any_callable_returns_it(value: Callable[..., Any]) -> None:
    """Where answers are awaited, coroutine functions are as good as plain ones."""
    assert _validation.strategy("stop", value) is value


@pytest.mark.parametrize("check", [_validation.callback, _validation.strategy])
@pytest.mark.parametrize("value", [generator, async_generator, functools.partial(generator), Generates()], ids=called)
def test_callables_of_a_generator_raise_type_error(check: Callable[..., Any], value: Callable[..., Any]) -> None:
    """A generator function is refused, because its result is always true and its items are never read."""
    with pytest.raises(TypeError) as caught:
        check("stop", value)
    assert str(caught.value) == f"stop must be a function that returns its answer, got the generator {value!r}"


@pytest.mark.parametrize("check", [_validation.callback, _validation.strategy])
@pytest.mark.parametrize("value", [None, 5, "print", [print]])
def test_callables_of_what_cannot_be_called_raise_type_error(check: Callable[..., Any], value: Any) -> None:
    """What is no function is refused when it is given, not when it is called."""
    with pytest.raises(TypeError) as caught:
        check("stop", value)
    assert str(caught.value) == f"stop must be callable, got {value!r}"


@pytest.mark.parametrize("check", [_validation.callback, _validation.strategy])
def test_callables_of_a_coroutine_raise_type_error(check: Callable[..., Any]) -> None:
    """The coroutine that calling a function made is not the function."""
    coroutine = later(1)
    with pytest.raises(TypeError, match=r"^stop must be callable, got <coroutine object later at .*>$"):
        check("stop", coroutine)
    coroutine.close()


@pytest.mark.parametrize("check", [_validation.callback, _validation.strategy])
@pytest.mark.parametrize("value", [Answers, AnswersLater, ValueError, bool])
def test_callables_of_a_class_raise_type_error(check: Callable[..., Any], value: type) -> None:
    """A class can be called, but makes an instance, which is always true: the instance was meant."""
    with pytest.raises(TypeError) as caught:
        check("stop", value)
    assert str(caught.value) == f"stop must be a function or an instance, got the class {value!r}"


def test_hashable_is_whatever_can_be_a_key() -> None:
    """A tuple of what can be one, too; not a list."""
    assert _validation.hashable("key", ("a", 1)) == ("a", 1)
    with pytest.raises(TypeError, match=r"key must be hashable, got \['a'\]"):
        _validation.hashable("key", ["a"])


@pytest.mark.parametrize(
    ("check", "value", "instead"),
    [
        (_validation.seconds, "500ms", ": write 0.5"),
        (_validation.seconds, "2 min", ": write 120"),
        (_validation.seconds, "1h", ": write 3600"),
        (_validation.seconds, "5%", ""),
        (_validation.share, "5%", ": write 0.05"),
        (_validation.share, "5s", ""),
        (_validation.amount, "5s", ""),
        (_validation.seconds, "soon", ""),
        (_validation.seconds, "s", ""),
    ],
)
def test_number_with_a_unit_is_told_as_the_number_to_write(
    check: Callable[[str, object], float], value: str, instead: str
) -> None:
    """Where the unit fits what is asked for."""
    with pytest.raises(TypeError) as caught:
        check("limit", value)
    assert str(caught.value).endswith(f", got {value!r}{instead}")


@pytest.mark.parametrize(
    ("given", "end"), [("brownout", "; did you mean brown-out?"), ("storm", ""), (7, ""), ("", "")]
)
def test_name_that_is_almost_a_known_one_is_told(given: object, end: str) -> None:
    """A message suggests the known name that is similar, and nothing where no name is."""
    assert _validation.meant(given, ["brown-out", "overload"]) == end
