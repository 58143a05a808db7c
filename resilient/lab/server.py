"""A server of a world: workers, a queue, and what stands in front of them.

What stands in front is `Admission`: policies of production, as `resilient.http.asgi.ServerMiddleware` puts them before
an application. Whom they refuse is told so at once, and costs no worker; those who get in are in the server until they
have their answer, so what a policy sees of a call is the time in the queue and in work. What they may know of a call is
what travels with it: its priority, and (where the server minds it) its deadline. As there, a single gate learns nothing
of errors of the work, a whole pipeline judges for itself, and a refusal asks for a pause of whole seconds, at least 1.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any

from resilient.deadlines import deadline
from resilient.errors import Rejected, TimedOut
from resilient.faults import Crash, Slowness, Stall
from resilient.outcome import Classifier
from resilient.pipeline import Pipeline
from resilient.policy import Policy
from resilient.priority import PRIORITIES, Priority, priority

if TYPE_CHECKING:
    from resilient.lab.service import Service

__all__ = ["ANSWER", "Admission", "Request", "Server", "ServiceError"]

ANSWER = "answer"
"""The result of every request that goes well."""


class ServiceError(Exception):
    """The service has answered with an error.

    Attributes:
        status: as in HTTP.
        retry_after: seconds, or None.
    """

    def __init__(self, status: int, retry_after: float | None = None) -> None:
        super().__init__(status)
        self.status = status
        self.retry_after = retry_after


class Request:
    """One request on its way: the future on which its sender waits, and what is known of it."""

    __slots__ = ("deadline", "future", "gone", "key", "late", "priority", "seen", "server", "state", "work")

    priority: Priority
    """Where servers have `admission`, as what follows."""
    seen: object
    """What their policies are shown of it; None: the key."""
    work: asyncio.Future[object] | None
    """What is admitted waits for this one."""

    def __init__(self, future: asyncio.Future[object], key: str, deadline: float | None, server: Server) -> None:
        self.future = future
        self.key = key
        self.deadline = deadline
        self.server = server
        self.gone = False
        """Its client has given up."""
        self.late = 0.0
        """Seconds by which its answer will be late; infinite: it will be lost."""
        self.state: Any = None
        """The generation of the server in which it runs; None: it does not."""


class Server:
    """Workers and a queue. `finish` is called by the clock; everything else by what comes in."""

    def __init__(self, service: Service, number: int) -> None:
        plan = service.plan
        self.service = service
        self.number = number
        self.workers: float = math.inf if plan.workers is None else plan.workers
        self.free = self.workers
        self.queue: deque[Request] = deque()
        self.take: Callable[[], Request] = self.queue.popleft if plan.queue == "fifo" else self.queue.pop
        self.limit = math.inf if plan.queue_limit is None else plan.queue_limit
        self.waiting = 0
        self.running: dict[Request, None] = {}
        self.generation = 0
        self.slowed: list[Slowness] = []
        self.stalled: list[Stall] = []
        self.down: list[Crash] = []
        self.draw = service.draw
        self.at = service.loop.at
        self.drops = plan.drop_expired
        self.admission = None if service.admit is None else Admission(self, service.admit)
        self.answer = service.answer if self.admission is None else self.admission.worked
        """Where the outcome of work goes."""

    @property
    def inside(self) -> int:
        """How many requests are in this server, those in its queue included."""
        return self.waiting + len(self.running) if self.admission is None else len(self.admission.tasks)

    def arrive(self, request: Request) -> None:
        if self.down:
            self.service.acted[id(self.down[-1])] += 1
            self.service.answer(request, self.down[-1].failure(self.service.names))
        elif self.drops and self.expired(request):
            self.service.answer(request, ServiceError(504))
        elif self.admission is None:
            self.take_in(request)
        else:
            self.admission.consider(request)

    def expired(self, request: Request) -> bool:
        """Whether the deadline that came with it has passed."""
        return request.deadline is not None and request.deadline <= self.service.loop._now

    def take_in(self, request: Request) -> None:
        """To a worker, or into the queue."""
        if self.stalled:
            self.service.acted[id(self.stalled[-1])] += 1
        if self.free and not self.stalled:
            self.begin(request)
        elif self.waiting < self.limit:
            self.queue.append(request)
            self.waiting += 1
            if self.stalled and any(stall.ending is not None for stall in self.stalled):
                self.service.lose(request.future)
        else:
            self.answer(request, ServiceError(503))

    def begin(self, request: Request) -> None:
        service = self.service
        if self.drops and self.expired(request):
            self.answer(request, ServiceError(504))
            return
        self.free -= 1
        error = service.fails(request) if service.active or service.plan.failure_rate else None
        seconds = self.draw() if error is None or service.draw_error is None else service.draw_error()
        for slowness in self.slowed:
            service.acted[id(slowness)] += seconds > 0
            seconds *= slowness.factor
        request.state = self.generation
        self.running[request] = None
        self.at(service.loop._now + seconds, self.finish, (request, error))

    def finish(self, what: tuple[Request, Exception | None]) -> None:
        request, error = what
        if request.state != self.generation or request.gone:
            return  # it went down with the server, or was cancelled
        del self.running[request]
        self.free += 1
        self.service.executed += 1
        self.answer(request, error)
        if self.waiting:
            self.work_on()

    def work_on(self) -> None:
        """Free workers take what waits."""
        while self.waiting and self.free and not self.stalled:
            request = self.take()
            if not request.gone:
                self.waiting -= 1
                self.begin(request)

    def given_up(self, request: Request) -> None:
        """Its client has given up, and the server is told."""
        if self.admission is None:
            self.cancel(request)
        else:
            self.admission.cancel(request)

    def cancel(self, request: Request) -> None:
        """Neither the queue nor a worker has it any more."""
        if request.gone:
            return
        if request.state is None:
            if request in self.queue:
                request.gone = True
                self.waiting -= 1
        elif request in self.running:
            request.gone = True
            del self.running[request]
            self.free += 1
            self.work_on()

    def crash(self, fault: Crash) -> None:
        """All that is inside is gone."""
        self.down.append(fault)
        self.generation += 1
        lost = [*self.running, *(request for request in self.queue if not request.gone)]
        if self.admission is not None:
            lost = self.admission.crash()
        self.running.clear()
        self.queue.clear()
        self.waiting = 0
        self.free = self.workers
        self.service.acted[id(fault)] += len(lost)
        for request in lost:
            self.service.answer(request, self.service.names.reset(fault.words))


_AS_THE_MIDDLEWARE = Classifier(ignore=Exception)
"""An error of the work says nothing about how much work the server can take, and is often quicker."""


_served: ContextVar[Request] = ContextVar("resilient_lab_served")
"""The request that a server's policies consider in this context."""


def _context_of(name: Priority) -> Context:
    """Of a call on the server: it knows nothing of its client's context but the priority."""
    context = Context()
    context.run(priority(name).__enter__)
    return context


class Admission:
    """The policies in front of one server, made anew after each of its crashes."""

    def __init__(self, server: Server, make: Callable[[], Policy]) -> None:
        self.server = server
        self.make = make
        self.loop = server.service.loop
        self.contexts = {each: _context_of(each) for each in PRIORITIES}
        self.tasks: dict[Request, asyncio.Task[None]] = {}
        self._set_up()

    def _set_up(self) -> None:
        made = self.make()
        self.pipeline = made if isinstance(made, Pipeline) else Pipeline(made, classify=_AS_THE_MIDDLEWARE)
        self.guarded = self.pipeline(self._serve)

    def consider(self, request: Request) -> None:
        """Let it in, let it wait, or refuse it."""
        request.work = None
        context = self.contexts[request.priority].copy()
        self.tasks[request] = self.loop.create_task(self._live(request), context=context)

    async def _live(self, request: Request) -> None:
        _served.set(request)
        seen = request.key if request.seen is None else request.seen
        error: Exception | None = None
        try:
            if self.server.drops and request.deadline is not None:
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
        self.server.service.answer(request, error)

    async def _serve(self, seen: object) -> object:
        """What the admission of a server guards: the wait for a worker, and its work."""
        request = _served.get()
        request.work = self.loop.create_future()
        self.server.take_in(request)
        try:
            return await request.work
        except asyncio.CancelledError:
            self.server.cancel(request)
            raise

    def worked(self, request: Request, error: Exception | None) -> None:
        """Its work has ended, or will never begin."""
        work = request.work
        if work is not None and not work.done():
            if error is None:
                work.set_result(ANSWER)
            else:
                work.set_exception(error)

    def cancel(self, request: Request) -> None:
        task = self.tasks.get(request)
        if task is not None:
            task.cancel()

    def crash(self) -> list[Request]:
        """Forget all; return those that were inside."""
        lost = list(self.tasks)
        for request in lost:
            self.tasks.pop(request).cancel()
        self._set_up()
        return lost
