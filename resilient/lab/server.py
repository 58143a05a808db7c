"""A server of a world: workers, a queue, and an optional `resilient.lab.admission` in front of them."""

from __future__ import annotations

import asyncio
import math
from collections import Counter, deque
from collections.abc import Callable
from typing import Protocol

from resilient.core.policy import Policy
from resilient.faults import Crash, Fault, Slowness, Stall
from resilient.faults.exceptions import Exceptions
from resilient.lab.admission import Admission
from resilient.lab.answers import ServiceError
from resilient.lab.distributions import Sampler
from resilient.lab.event_loop import WorldLoop
from resilient.lab.request import Request
from resilient.lab.service_plan import ServicePlan

__all__ = ["Owner", "Server"]


class Owner(Protocol):
    """The service that a server belongs to, as far as the server uses it.

    Attributes:
        plan: the properties of the service.
        loop: of the world.
        admit: makes the admission of a server; None without one.
        draw, draw_error: draw the seconds that work takes, and those of work that ends with an error (None: the same).
        active: the faults that act upon single requests now.
        acted: how many requests each fault has affected, by the `id` of the fault.
        names: the exceptions that stand for broken connections.
        executed: requests that a worker has finished.
    """

    plan: ServicePlan
    loop: WorldLoop
    admit: Callable[[], Policy] | None
    draw: Sampler
    draw_error: Sampler | None
    active: list[Fault]
    acted: Counter[int]
    names: Exceptions
    executed: int

    def answer(self, request: Request, error: Exception | None) -> None:
        """Send the answer to a request back to its client: an error, or None for a success."""

    def fails(self, request: Request) -> Exception | None:
        """The error that a request is answered with, if any."""

    def lose(self, future: asyncio.Future[object]) -> None:
        """Leave the request behind `future` without an answer."""


class Server:
    """A server: workers and a queue. `finish` is called by the clock, everything else by arriving requests and by
    faults."""

    def __init__(self, service: Owner, number: int) -> None:
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
        self.admission: Admission | None = None
        if service.admit is not None:
            self.admission = Admission(service.admit, self, service.loop, service.answer)
        self.answer = service.answer if self.admission is None else self.admission.worked
        """Receives a request and its error, or None, when the work has ended."""

    @property
    def inside(self) -> int:
        """Number of requests in this server, including its queue."""
        return self.waiting + len(self.running) if self.admission is None else len(self.admission.tasks)

    def arrive(self, request: Request) -> None:
        """Refuse a request, pass it to the admission, or take it in."""
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
        """Whether the deadline of a request has passed."""
        return request.deadline is not None and request.deadline <= self.service.loop._now

    def take_in(self, request: Request) -> None:
        """Give a request to a free worker, or queue it, or refuse it."""
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
        """Begin the work of a request, or drop an expired one."""
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
        """End the work of a request with its error, or None, and take the next one."""
        request, error = what
        if request.state != self.generation or request.gone:
            return  # the request was lost in a crash, or cancelled
        del self.running[request]
        self.free += 1
        self.service.executed += 1
        self.answer(request, error)
        if self.waiting:
            self.work_on()

    def work_on(self) -> None:
        """Let free workers take requests from the queue."""
        while self.waiting and self.free and not self.stalled:
            request = self.take()
            if not request.gone:
                self.waiting -= 1
                self.begin(request)

    def given_up(self, request: Request) -> None:
        """Cancel a request whose client has given up."""
        if self.admission is None:
            self.cancel(request)
        else:
            self.admission.cancel(request)

    def cancel(self, request: Request) -> None:
        """Remove a request from the queue, or from its worker."""
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
        """Reset all requests inside, and refuse new ones until the fault ends."""
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
