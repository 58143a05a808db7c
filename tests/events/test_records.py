"""The kinds of events."""

from __future__ import annotations

from typing import get_args

from resilient import events
from resilient.events import AnyEvent, Event, records


def test_union_has_every_kind_of_event() -> None:
    """A `match` over it that a type checker finds complete is complete."""
    ours = {kind for kind in Event.__subclasses__() if kind.__module__ == records.__name__}
    assert set(get_args(AnyEvent)) == ours
    assert {kind.__name__ for kind in ours} <= set(events.__all__)
