"""The options of the command line, and the progress bar."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Console
from rich.progress import track

__all__ = ["Options"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one run: `quick` limits it to about a minute, `seed` seeds all randomness, `progress` shows the
    bar."""

    quick: bool = False
    seed: int = 1
    progress: bool = False

    def track(self, steps: Iterable[T], label: str) -> Iterator[T]:
        """Yield the `steps`, with a progress bar on standard error."""
        console = Console(stderr=True)
        yield from track(steps, label, console=console, transient=True, disable=not self.progress)
