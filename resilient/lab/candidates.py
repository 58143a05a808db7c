"""The pipelines that are tried in a world.

A candidate makes a new guard for each client of each run, so that no run knows of another. `candidate_from` makes
fresh policies (`resilient.lab.fresh_policies`): same settings, no state, no effects. So a pipeline that is used in
production can be tried as it is. A `Candidate` that is made by hand is used as it is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from resilient.explain.subject import subject_of
from resilient.lab.fresh_policies import fresh
from resilient.lab.http import in_world
from resilient.pipeline import Pipeline
from resilient.policy import Policy

__all__ = ["NONE", "Candidate", "Decorator", "candidate_from", "shadowed"]

Decorator = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something to try: `make` is called in the running event loop, once for each client.

    It returns a `Pipeline`, a policy, or any decorator of an `async def` (other libraries' or a plain loop). What is
    guarded has one argument, the key of the call, a string; or those that the scenario's `calls` make.

    A pipeline of a transport's comes under one again, by `client`: its calls are requests.

    What it does at the other end may belong to it: `admission` takes the place of the service's own, and with
    `deadline_header=False` servers do not hear of deadlines, whatever they would do about them.
    """

    name: str
    make: Callable[[], Policy | Decorator]
    about: str = ""
    admission: Policy | Callable[[], Policy] | None = None
    deadline_header: bool = True
    client: Callable[[Pipeline], Any] | None = None
    """Puts a pipeline under a transport with the options of the one that it was made of, and that in a client."""


NONE = Candidate("none", lambda: lambda ask: ask, "no policy")
"""Calls as they are."""


def shadowed(candidate: Candidate) -> Candidate:
    """The same with every policy in shadow mode that has one; the others (Timeout, Fallback) act."""

    def make() -> Any:
        guard = candidate.make()
        return fresh(guard, shadow=True) if isinstance(guard, Policy) else guard

    return replace(candidate, make=make)


def candidate_from(name: str, thing: Any, about: str = "") -> Candidate:
    """A candidate from whatever can be examined (see `resilient.explain.subject`), or from a function without arguments
    that makes a decorator of another library's.

    A guarded function stands for its pipeline: what this guards in a world is a request to the service of the world. A
    `ServerMiddleware` stands for its gate, in front of each server.

    Raises `TypeError` for anything else.
    """
    subject = subject_of(name, thing)
    if subject.kind == "middleware":
        if subject.admission is None:
            raise TypeError(f"{name} is a ServerMiddleware without a gate: there is nothing to try")
        return Candidate(name, NONE.make, about or repr(subject.admission), subject.admission)
    if subject.policy is None:
        return Candidate(name, _decorators(name, subject.make), about)
    transport = subject.transport
    pattern = subject.policy if transport is None else transport.given
    client = None if transport is None else functools.partial(in_world, transport, subject.timeout)
    return Candidate(name, lambda: fresh(pattern), about or repr(pattern), client=client)


def _decorators(name: str, make: Any) -> Callable[[], Decorator]:
    """Makes a decorator of another library's for each client."""

    def checked() -> Decorator:
        made = make()
        if not callable(made):
            raise TypeError(f"{name} must return a Pipeline, a policy or a decorator, got {made!r}")
        return made  # type: ignore[no-any-return]

    return checked
