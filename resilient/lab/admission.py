"""Policies of production in front of the servers of a world.

An `Admission` does what `resilient.server.asgi.ServerMiddleware` does in front of an application. A request that it
refuses is answered at once and costs no worker. An admitted request stays in the server until it is answered, so the
duration that a policy measures is the wait in the queue plus the work. A policy gets only the parts of a request that
are sent with it: the priority, and the deadline if the server respects deadlines. As in the middleware, a single gate
learns nothing from errors of the work, a whole pipeline uses its own classifier, and a refusal asks for a pause of
whole seconds, at least 1.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextvars import Context, ContextVar
from typing import Any, Protocol

from resilient.core.classify import Classifier
from resilient.core.deadline import deadline
from resilient.core.policy import Policy
from resilient.core.priority import PRIORITIES
from resilient.errors import Rejected, TimedOut
from resilient.explain.subject import subject_of
from resilient.lab.answers import ANSWER, ServiceError
from resilient.lab.event_loop import WorldLoop
from resilient.lab.fresh_policies import fresh
from resilient.lab.request import Request, with_priority
from resilient.pipeline import Pipeline

__all__ = ["Admission", "Workers", "admission_from"]

_AS_THE_MIDDLEWARE = Classifier(ignore=Exception)
"""An error of the work says nothing about how much work the server can take, and often comes sooner than an answer."""


def admission_from(thing: Any) -> Callable[[], Policy]:
    """A function that makes the admission of one server.

    Args:
        thing: a policy, a `ServerMiddleware`, or another object with policies (see `resilient.explain.subject`).

    Raises `TypeError` for anything else.
    """
    subject = subject_of("admission", thing)
    pattern = subject.admission if subject.kind == "middleware" else subject.policy
    if pattern is None:
        raise TypeError(f"admission must make a policy or a pipeline, got {thing!r}")
    return lambda: fresh(pattern)


class Workers(Protocol):
    """The workers behind an admission.

    Attributes:
        drops: whether the server respects deadlines.
    """

    drops: bool

    def take_in(self, request: Request) -> None:
        """Give an admitted request to a worker, or queue it."""

    def cancel(self, request: Request) -> None:
        """Remove a request from the queue, or from its worker."""


_served: ContextVar[Request] = ContextVar("resilient_lab_served")
"""The request that a server's policies consider in this context."""


class Admission:
    """The policies in front of one server, made anew after each crash of the server.

    Args:
        make: makes the policies.
        workers: do the work of admitted requests.
        loop: of the world.
        answer: is called with a request and its error, or None for a success.
    """

    def __init__(
        self,
        make: Callable[[], Policy],
        workers: Workers,
        loop: WorldLoop,
        answer: Callable[[Request, Exception | None], object],
    ) -> None:
        self.make = make
        self.workers = workers
        self.loop = loop
        self.answer = answer
        # Nothing of a client's context reaches the server but the priority.
        self.contexts = {each: with_priority(Context(), each) for each in PRIORITIES}
        self.tasks: dict[Request, asyncio.Task[None]] = {}
        self._set_up()

    def _set_up(self) -> None:
        made = self.make()
        self.pipeline = made if isinstance(made, Pipeline) else Pipeline(made, classify=_AS_THE_MIDDLEWARE)
        self.guarded = self.pipeline(self._serve)

    def consider(self, request: Request) -> None:
        """Admit, queue or refuse a request, in a task of its own."""
        request.work = None
        context = self.contexts[request.priority].copy()
        self.tasks[request] = self.loop.create_task(self._live(request), context=context)

    async def _live(self, request: Request) -> None:
        _served.set(request)
        seen = request.key if request.seen is None else request.seen
        error: Exception | None = None
        try:
            if self.workers.drops and request.deadline is not None:
                with deadline(request.deadline - self.loop._now):
                    await self.guarded(seen)
            else:
                await self.guarded(seen)
        except Rejected as refused:
            error = ServiceError(503, max(1, math.ceil(refused.retry_after or 1)))
        except TimedOut:
            error = ServiceError(504)
        except Exception as failed:
            error = failed
        finally:
            self.tasks.pop(request, None)
        self.answer(request, error)

    async def _serve(self, seen: object) -> object:
        """The guarded function: the wait for a worker, and its work."""
        request = _served.get()
        request.work = self.loop.create_future()
        self.workers.take_in(request)
        try:
            return await request.work
        except asyncio.CancelledError:
            self.workers.cancel(request)
            raise

    def worked(self, request: Request, error: Exception | None) -> None:
        """End the guarded call of a request: its work has ended, or never begins."""
        work = request.work
        if work is not None and not work.done():
            if error is None:
                work.set_result(ANSWER)
            else:
                work.set_exception(error)

    def cancel(self, request: Request) -> None:
        """Cancel the guarded call of a request, because its client has given up."""
        task = self.tasks.get(request)
        if task is not None:
            task.cancel()

    def crash(self) -> list[Request]:
        """Cancel all requests inside and forget the state of the policies; returns these requests."""
        lost = list(self.tasks)
        for request in lost:
            self.tasks.pop(request).cancel()
        self._set_up()
        return lost
