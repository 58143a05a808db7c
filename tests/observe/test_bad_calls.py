"""What counts as a bad call is the same on the live page and in the rules for Prometheus."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import pytest

from resilient.observe.bad_calls import bad_share, is_bad, is_counted
from resilient.observe.dashboards.expressions import BAD, COUNTED

ENDINGS = ("success", "failure", "timeout", "rejected", "cancelled")
VERDICTS = ("success", "failure", "nothing")
OPERATORS = {
    "=": lambda value, given: value == given,
    "!=": lambda value, given: value != given,
    "=~": lambda value, given: re.fullmatch(given, value) is not None,
    "!~": lambda value, given: re.fullmatch(given, value) is None,
}


def matches(groups: Sequence[Sequence[str]], labels: dict[str, str]) -> bool:
    """Whether Prometheus selects a series with these labels by one of these groups of matchers."""

    def holds(matcher: str) -> bool:
        label, operator, value = re.fullmatch(r'(\w+)(=~|!~|!=|=)"([^"]*)"', matcher).groups()  # type: ignore[union-attr]
        return OPERATORS[operator](labels[label], value)

    return any(all(map(holds, group)) for group in groups)


@pytest.mark.parametrize(("ending", "verdict"), [*itertools.product(ENDINGS, VERDICTS)])
def test_rule_is_that_of_the_alerts(ending: str, verdict: str) -> None:
    """For each ending and verdict, as the matchers of the expressions select them."""
    labels = {"ending": ending, "verdict": verdict}
    assert is_bad(ending, verdict) == matches(BAD, labels)
    assert is_counted(ending, verdict) == matches(COUNTED, labels)


def test_share_is_of_the_calls_that_say_something() -> None:
    """Cancelled calls and ignored errors are in neither number; without other calls there is no share."""
    silent = {("cancelled", "nothing"): 50, ("failure", "nothing"): 40}
    calls = {("success", "success"): 6, ("failure", "failure"): 1, ("failure", "success"): 2, ("timeout", "nothing"): 1}
    assert bad_share({**silent, **calls}) == 0.2
    assert bad_share({("success", "success"): 3, ("failure", ""): 1}) == 0.25
    assert bad_share(silent) is None
