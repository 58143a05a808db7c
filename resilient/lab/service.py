"""The service of a world: servers with workers and queues, the network, and the faults.

A request goes over the network to a server. A free worker takes it, or it waits in the queue (`queue`: the oldest or
the newest is taken first; a request beyond `queue_limit` is refused). The worker is busy for a time drawn from
`service_time`, and the answer goes back over the network. A server does not learn that a client has given up: abandoned
work is executed all the same, as in most servers, unless `abandoned = "cancelled"`.

With `drop_expired` the server respects the deadline that travels with a request, as `ServerMiddleware` does with the
header of our transports (`deadline_header=True`): the earliest of the client's attempt, its whole call and its caller's
own deadline. An expired request is refused when it arrives, and again when a worker would take it; this costs no work
(504).

`admission` is a policy of production in front of each server (`resilient.lab.admission`). A request that it refuses is
answered at once and costs no work (503, with a pause). With both, work ends at its deadline, as a handler does.

The faults are those of `resilient.faults`:

    Errors          a share of the requests is answered with an error (which takes `error_time`)
    Latency         answers to requests that arrive meanwhile are delayed; workers stay as free as ever
    Slowness        work that begins meanwhile takes longer
    Stall           no work begins
    Crash           all requests in the server are reset, and new ones are refused; it restarts empty
    Partition       nothing gets through: requests that are sent meanwhile, and answers that are due, are lost
    PacketLoss      a share of requests and answers is lost
    Reset           the connection is refused ("connect"), or breaks after the request has arrived ("read")

Their targets are numbers of servers, or keys of requests. Each fault acts where it belongs, whatever the order of the
faults: on the way to the server, in the server, or on the way back.

A caller gets a `ServiceError` with the status (503 by default, 429 from `rate_limit`) and `retry_after`; Python's
`ConnectionRefusedError` and `ConnectionResetError`; or the exception that a fault names. A lost request gets no answer,
and after 15 minutes a `TimeoutError`.
"""

from __future__ import annotations

import asyncio
import functools
import math
import random
from array import array
from asyncio import Future
from collections import Counter

from resilient import faults
from resilient.core.priority import current_priority
from resilient.faults.exceptions import LOST, PYTHON
from resilient.lab.answers import ANSWER, CandidateError, ServiceError
from resilient.lab.event_loop import WorldLoop
from resilient.lab.request import Request
from resilient.lab.server import Server
from resilient.lab.service_plan import FAULTS, Balance, Link, Quota, ServicePlan, shard
from resilient.pipeline import Pipeline

__all__ = ["ANSWER", "FAULTS", "Balance", "Link", "Quota", "Service", "ServiceError", "ServicePlan", "build_service"]

MOST_REQUESTS = 50_000_000
"""The most requests of a run, which take 400 MB and ten minutes: a call that is retried without a pause never ends
otherwise."""


class Service:
    """One service in one run. Clients call `ask`.

    Attributes:
        sent: the moment of each request.
        most: the most requests that may be sent in the run.
        executed: requests that a worker has finished.
        admit: makes the admission of a server; None without one.
        servers: all servers.
        active: the faults that act upon single requests now.
        acted: how many requests each fault has affected, by the `id` of the fault.
        names: the exceptions that clients get for broken connections and for lost requests.
        unreachable: requests that did not reach a server because of a partition.
    """

    def __init__(self, plan: ServicePlan, happens: tuple[faults.Fault, ...], loop: WorldLoop, seed: str) -> None:
        self.plan = plan
        self.loop = loop
        self.sent: array[float] = array("d")
        self.most: float = MOST_REQUESTS
        self.executed = 0
        self.luck = random.Random(f"{seed} luck")
        work = random.Random(f"{seed} work")
        self.draw = plan.service_time.sampler(work)
        self.draw_error = None if plan.error_time is None else plan.error_time.sampler(work)
        self.latency = None if plan.link.latency is None else plan.link.latency.sampler(random.Random(f"{seed} link"))
        self.admit = None if plan.admission is None else plan.admit
        self.servers = [Server(self, number) for number in range(1, plan.servers + 1)]
        self.active: list[faults.Fault] = []
        self.acted: Counter[int] = Counter()
        self.names = PYTHON
        self.unreachable: set[asyncio.Future[object]] = set()
        self.losses = [faults.PacketLoss(share=plan.link.loss)] if plan.link.loss else []
        self.plain = plan.servers == 1 and not (self.latency or plan.link.loss or plan.rate_limit)
        self.too_many: list[asyncio.Future[object]] = []
        self._turn = 0
        self._tokens = 0.0 if plan.rate_limit is None else plan.rate_limit.burst
        self._counted_at = 0.0
        for fault in happens:
            loop.at(fault.start, self._begin, fault)
            if fault.end is not None:
                loop.at(fault.end, self._end, fault)

    # -- requests -----------------------------------------------------------------------------------------------

    def ask(self, key: str, deadline: float | None = None, seen: object = None) -> asyncio.Future[object]:
        """Send a request. The future ends with its answer; cancelling the future gives the request up.

        Args:
            key: of the call.
            deadline: in seconds on the loop's clock, or None.
            seen: what the policies in front of a server get as their argument; None: the key.
        """
        loop = self.loop
        now = loop._now
        self.sent.append(now)
        if len(self.sent) > self.most:
            return self._one_too_many()
        server = self.servers[0] if len(self.servers) == 1 else self._choose(key)
        request = Request(Future(loop=loop), key, deadline, server)
        if self.admit is not None:
            request.priority, request.seen = current_priority(), seen
        if self.plan.abandoned == "cancelled":
            request.future.add_done_callback(lambda future: self._given_up(request) if future.cancelled() else None)
        if self.plain and not self.active:
            server.arrive(request)
        elif self._arrives(request):
            if self.latency is None:
                self._arrive(request)
            else:
                loop.at(now + self.latency(), self._arrive, request)
        else:
            self.lose(request.future)
        return request.future

    def lose(self, future: asyncio.Future[object]) -> None:
        """Leave a request without an answer: its sender learns nothing until the kernel gives the connection up."""
        self.loop.at(self.loop._now + LOST, self._give_up, future)

    def _give_up(self, future: asyncio.Future[object]) -> None:
        if not future.done():
            failed = self.names.unreachable if future in self.unreachable else self.names.silent
            future.set_exception(failed(f"no answer in {LOST:g} s"))

    def _one_too_many(self) -> asyncio.Future[object]:
        """End the run at a request beyond the limit. The request gets no answer, so a client that would retry it
        waits."""
        if not self.too_many:
            self.loop.at(self.loop._now, self._end_of_run)
        self.too_many.append(self.loop.create_future())
        return self.too_many[-1]

    def _end_of_run(self, _: object) -> None:
        raise CandidateError(
            f"more than {self.most:,.0f} requests were sent in {self.loop._now:.6g} s of the run: lower the attempts, "
            "lengthen the waits between them, or say --large to go on"
        )

    def _choose(self, key: str) -> Server:
        servers, balance = self.servers, self.plan.balance
        if balance == "random":
            return servers[int(len(servers) * self.luck.random())]
        if balance == "round_robin":
            self._turn = (self._turn + 1) % len(servers)
            return servers[self._turn - 1]
        if balance == "least_busy":
            first = int(len(servers) * self.luck.random())  # ties are broken at random
            return min((*servers[first:], *servers[:first]), key=lambda server: server.inside)
        return servers[shard(key, len(servers))]

    def _hits(self, fault: faults.Fault, request: Request) -> bool:
        targets = fault.targeted
        return not targets or request.server.number in targets or request.key in targets

    def _happens(self, fault: faults.Fault, request: Request) -> bool:
        """Whether a fault hits this request, by the share of requests that it hits. Counts the hit."""
        happens = self._hits(fault, request) and fault.strikes(self.luck)
        self.acted[id(fault)] += happens
        return happens

    def _arrives(self, request: Request) -> bool:
        """Whether a request reaches its server. Half of the lost ones reach it, and their answers are lost."""
        for fault in (*self.active, *self.losses):
            if isinstance(fault, faults.PacketLoss) and self._happens(fault, request):
                if self.luck.random() < 0.5:
                    return False
                request.late = math.inf
        if self._cut_off(request):
            self.unreachable.add(request.future)
            request.future.add_done_callback(self.unreachable.discard)
            return False
        return True

    def _cut_off(self, request: Request) -> bool:
        return any(isinstance(fault, faults.Partition) and self._happens(fault, request) for fault in self.active)

    def _arrive(self, request: Request) -> None:
        for fault in self.active:
            if isinstance(fault, faults.Latency) and self._happens(fault, request):
                request.late += fault.delay(self.loop._now, self.luck)
        for fault in self.active:
            if isinstance(fault, faults.Reset) and self._happens(fault, request):
                self.answer(request, fault.failure(self.names))
                if fault.phase == "connect":
                    return
        quota = self.plan.rate_limit
        if quota is not None and (wait := self._over(quota)):
            self.answer(request, ServiceError(429, wait))
            return
        request.server.arrive(request)

    def _over(self, quota: Quota) -> float:
        """Seconds until the rate limit has a token, or 0 after it has taken one."""
        now = self.loop._now
        self._tokens = min(quota.burst, self._tokens + (now - self._counted_at) * quota.rate)
        self._counted_at = now
        if self._tokens >= 1 - 1e-9:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / quota.rate

    def _given_up(self, request: Request) -> None:
        if self.latency is None:
            request.server.given_up(request)
        else:
            self.loop.at(self.loop._now + self.latency(), request.server.given_up, request)

    @property
    def admissions(self) -> list[Pipeline]:
        """The pipelines in front of its servers."""
        return [server.admission.pipeline for server in self.servers if server.admission is not None]

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """The tasks of requests that are in the admission of a server."""
        return [task for server in self.servers if server.admission for task in server.admission.tasks.values()]

    def answer(self, request: Request, error: Exception | None) -> None:
        """Send the answer to a request back to its client: an error, or None for a success."""
        if self.plain and not self.active and not request.late:
            future = request.future
            if not future.done():
                if error is None:
                    future.set_result(ANSWER)
                else:
                    future.set_exception(error)
            return
        late = request.late if self.latency is None else request.late + self.latency()
        if late == math.inf or self._cut_off(request):
            self.lose(request.future)
        elif late:
            self.loop.at(self.loop._now + late, _deliver, (request.future, error))
        else:
            _deliver((request.future, error))

    def fails(self, request: Request) -> Exception | None:
        """The error that a request is answered with, if any."""
        if self.plan.failure_rate and self.luck.random() < self.plan.failure_rate:
            return ServiceError(503)
        for fault in self.active:
            if isinstance(fault, faults.Errors) and self._happens(fault, request):
                status, _ = fault.answer
                return ServiceError(status, fault.retry_after) if fault.error is None else fault.failure()
        return None

    # -- faults -------------------------------------------------------------------------------------------------

    def _hit(self, fault: faults.Fault) -> list[Server]:
        targets = fault.targeted
        return [server for server in self.servers if not targets or server.number in targets]

    def _begin(self, fault: faults.Fault) -> None:
        if isinstance(fault, faults.Slowness):
            for server in self._hit(fault):
                server.slowed.append(fault)
        elif isinstance(fault, faults.Stall):
            for server in self._hit(fault):
                server.stalled.append(fault)
                self.acted[id(fault)] += server.waiting
        elif isinstance(fault, faults.Crash):
            for server in self._hit(fault):
                server.crash(fault)
        else:
            self.active.append(fault)

    def _end(self, fault: faults.Fault) -> None:
        if isinstance(fault, faults.Slowness):
            for server in self._hit(fault):
                server.slowed.remove(fault)
        elif isinstance(fault, faults.Stall):
            for server in self._hit(fault):
                server.stalled.remove(fault)
                server.work_on()
        elif isinstance(fault, faults.Crash):
            for server in self._hit(fault):
                server.down.remove(fault)
        else:
            self.active.remove(fault)


@functools.singledispatch
def build_service(plan: ServicePlan, happens: tuple[faults.Fault, ...], loop: WorldLoop, seed: str) -> Service:
    """The service of one run, as its plan describes it.

    A module with another kind of plan registers its own service here: `build_service.register`.

    Args:
        happens: the faults of the run.
        seed: for all that is random.
    """
    return Service(plan, happens, loop, seed)


def _deliver(what: tuple[asyncio.Future[object], Exception | None]) -> None:
    future, error = what
    if not future.done():
        if error is None:
            future.set_result(ANSWER)
        else:
            future.set_exception(error)
