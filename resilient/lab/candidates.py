"""Candidates: the pipelines that are tried in a world.

A candidate makes a new guard for each client of each run, so runs do not affect each other. `candidate_from` makes
fresh policies (`resilient.lab.fresh_policies`): same settings, no state, no effects. So a pipeline that is used in
production can be tried as it is. The guards of a `Candidate` that is made by hand are used as they are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from resilient.core.policy import Policy
from resilient.explain.subject import subject_of
from resilient.lab.fresh_policies import fresh
from resilient.lab.http import in_world
from resilient.pipeline import Pipeline

__all__ = ["NONE", "Candidate", "Decorator", "candidate_from", "shadowed"]

Decorator = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pipeline to try, or another guard.

    Attributes:
        name: in results.
        make: is called in the running event loop, once for each client. It returns a `Pipeline`, a policy, or any
            decorator of an `async def` (of another library, or written by hand). The guarded function has one argument,
            the key of the call as a string, or the arguments that the scenario's `calls` make.
        about: a description for people.
        admission: replaces the admission of the service while this candidate is tried; None: it stays.
        deadline_header: False: requests do not carry deadlines to servers.
        client: puts a pipeline under a transport with the options of the original one, and the transport in a client,
            so that its calls are requests; None: calls are not requests.
    """

    name: str
    make: Callable[[], Policy | Decorator]
    about: str = ""
    admission: Policy | Callable[[], Policy] | None = None
    deadline_header: bool = True
    client: Callable[[Pipeline], Any] | None = None


NONE = Candidate("none", lambda: lambda ask: ask, "no policy")
"""Calls without policies."""


def shadowed(candidate: Candidate) -> Candidate:
    """The candidate with each policy in shadow mode that has one. The others (Timeout, Fallback) act."""

    def make() -> Any:
        guard = candidate.make()
        return fresh(guard, shadow=True) if isinstance(guard, Policy) else guard

    return replace(candidate, make=make)


def candidate_from(name: str, thing: Any, about: str = "") -> Candidate:
    """A candidate from an object with policies (see `resilient.explain.subject`), or from a function without arguments
    that makes a decorator of another library.

    A guarded function stands for its pipeline, which in a world guards a request to the service. A `ServerMiddleware`
    stands for its gate, which is put in front of each server.

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
    """A function that makes a decorator of another library, for each client."""

    def checked() -> Decorator:
        made = make()
        if not callable(made):
            raise TypeError(f"{name} must return a Pipeline, a policy or a decorator, got {made!r}")
        return made  # type: ignore[no-any-return]

    return checked
