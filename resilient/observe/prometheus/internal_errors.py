"""Errors inside a scrape, which must not take the user's other metrics with them."""

from __future__ import annotations

import logging

__all__ = ["InternalErrors"]

_log = logging.getLogger("resilient")


class InternalErrors:
    """Counts errors, and logs the first one of each place with its traceback.

    Attributes:
        count: errors so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._logged: set[str] = set()

    def report(self, place: str, error: Exception) -> None:
        """Count an error. `place`: what failed, for the line of the log; there must be few different ones."""
        self.count += 1
        if place not in self._logged:
            self._logged.add(place)
            _log.error("resilient.observe.prometheus: %s failed (logged once)", place, exc_info=error)
