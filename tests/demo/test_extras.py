"""The requests that policies add, counted from events."""

from __future__ import annotations

from resilient import events
from resilient.demo.extras import Extras


def heard(*news: events.Event) -> Extras:
    extras = Extras()
    for event in news:
        extras.hear(event, event.at)
    return extras


def test_hedges_and_retries_cost_one_token_each() -> None:
    """Together they are what the budget has spent."""
    extras = heard(
        events.Hedging("service", 1.0, "Hedge", 2, "delay"),
        events.Retrying("service", 2.0, "Retry", 1, 0.1, None),
        events.Hedging("service", 3.0, "Hedge", 2, "failure"),
    )
    assert (extras.hedges, extras.retries, extras.spent) == ([1.0, 3.0], [2.0], 3)


def test_hedge_has_won_when_a_further_copy_had_the_answer() -> None:
    """If the first copy was faster after all, the hedge did not win."""
    extras = heard(events.HedgeWon("service", 1.0, "Hedge", 1, 2), events.HedgeWon("service", 2.0, "Hedge", 2, 2))
    assert extras.won == [2.0]


def test_request_without_a_token_is_refused_and_not_spent() -> None:
    """An empty budget costs nothing."""
    extras = heard(events.BudgetExhausted("service", 1.0, "Retry", "retry"))
    assert (extras.refused, extras.spent) == ([1.0], 0)


def test_other_events_are_not_counted() -> None:
    """Changes of circuits are reported elsewhere."""
    assert heard(events.CircuitChanged("service", 1.0, "CircuitBreaker", "closed", "open", "")) == Extras()
