"""What the command line asks of a benchmark, and the progress it shows while one waits."""

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
    """`quick` asks for an answer within a minute; `seed` for everything that is random."""

    quick: bool = False
    seed: int = 1
    progress: bool = False

    def track(self, steps: Iterable[T], label: str) -> Iterator[T]:
        """Go through `steps` with a progress bar on standard error."""
        console = Console(stderr=True)
        yield from track(steps, label, console=console, transient=True, disable=not self.progress)
