"""Runs a function in fresh processes, one after the other. Each has its own hashes, heap and imports."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

from benchmarks.harness.options import Options

__all__ = ["fresh"]

A = TypeVar("A")
R = TypeVar("R")


def fresh(function: Callable[[A], R], arguments: Sequence[A], options: Options) -> list[R]:
    """Call `function` with each argument, in a process each, and return the results. `function` must be importable. A
    single argument is handled in the current process."""
    if len(arguments) == 1:
        return [function(arguments[0])]
    context = multiprocessing.get_context("spawn")
    results = []
    for argument in options.track(arguments, "processes"):
        with ProcessPoolExecutor(1, mp_context=context) as process:
            results.append(process.submit(function, argument).result())
    return results
