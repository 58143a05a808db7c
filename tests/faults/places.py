"""The places where faults happen, behind one interface: the policy `Chaos`, the chaos transports, scenarios, and the
demo.

Each answers in 2 seconds without a fault; `Place.seen` sends requests and returns how each ended. All of it runs in
virtual time.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, ClassVar

import httpx
import httpx2

import resilient.http.httpx
import resilient.http.httpx2
from resilient import Chaos, Classifier, Pipeline
from resilient.core.verdict import Verdict
from resilient.demo.experiment import Experiment, Settings
from resilient.demo.faults import FaultPlan
from resilient.demo.server import Inventory
from resilient.faults import Crash, Fault
from resilient.http.httpx import AsyncTransport, HttpClassifier
from resilient.lab.answers import ServiceError
from resilient.lab.calls import Calls
from resilient.lab.candidates import Candidate, candidate_from
from resilient.lab.distributions import Constant
from resilient.lab.http import HttpCalls
from resilient.lab.load import Replay
from resilient.lab.service import ServicePlan
from resilient.lab.world import Scenario, simulate
from resilient.runtime import virtual

__all__ = ["BODY", "PLACES", "WORK", "Place", "Probe", "Seen"]

WORK = 2.0
"""Seconds that a place takes for an answer."""

BODY = b"0123456789"

Ask = Callable[[Any], Awaitable[Any]]
"""Sends a request with a key, 1 or 2; server 1 or 2 gets it."""

Main = Callable[[Ask], Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class Seen:
    """One request: how it ended, after how many seconds, and its verdict in its pipeline."""

    how: str
    seconds: float
    repeat: bool = False
    asks: float | None = None


@dataclass(frozen=True)
class Probe:
    """A request that is sent at a moment, to a key."""

    at: float
    key: int


class Place:
    """A place where faults happen. Targets are numbers, or with `keys=str` texts."""

    thrift: ClassVar[float] = 0.0
    """Seconds that it takes for an error."""
    classifier: Classifier = Classifier()

    def live(self, faults: tuple[Fault, ...], main: Main, keys: type, pipeline: Pipeline | None) -> None:
        """Start with the fault at 0 s, and run `main` to its end, with its requests through the pipeline."""
        raise NotImplementedError

    def seen(
        self, faults: tuple[Fault, ...], probes: list[Probe], keys: type = int, pipeline: Pipeline | None = None
    ) -> list[Seen]:
        """Send these requests, and return how each ended, in the order in which they were sent."""
        found: list[Seen | None] = [None] * len(probes)

        async def main(ask: Ask) -> None:
            async with asyncio.TaskGroup() as group:
                for number, probe in enumerate(probes):
                    group.create_task(send(number, probe, ask))

        async def send(number: int, probe: Probe, ask: Ask) -> None:
            await asyncio.sleep(probe.at - asyncio.get_running_loop().time())
            found[number] = await self.look(ask, probe.key)

        self.live(faults, main, keys, pipeline)
        return [each for each in found if each is not None]

    async def look(self, ask: Ask, key: Any) -> Seen:
        """Send a request, and return how it ended."""
        clock = asyncio.get_running_loop().time
        begin = clock()
        how, verdict = await self.ending(ask, key)
        return Seen(how, round(clock() - begin, 6), verdict.retryable, verdict.retry_after)

    async def ending(self, ask: Ask, key: Any) -> tuple[str, Verdict]:
        """How a request ended, and its verdict."""
        try:
            result = await ask(key)
        except Exception as error:
            return self.how(error), self.classifier.error(error)
        if isinstance(result, httpx.Response | httpx2.Response):
            how = "answer" if result.status_code == 200 else f"error {result.status_code}"
            return how, self.classifier.result(result)
        return "answer" if result == "answer" else f"result {result}", self.classifier.result(result)

    def how(self, error: Exception) -> str:
        """How a request ended, by its exception."""
        if isinstance(error, ServiceError):
            return f"error {error.status}"
        known = {ConnectionError: "error 503", ConnectionRefusedError: "refused", ConnectionResetError: "reset"}
        known |= {TimeoutError: "silence"}
        for client in (httpx, httpx2):
            known |= {client.ConnectError: "refused", client.ReadError: "reset", client.RemoteProtocolError: "cut"}
            known |= {client.ConnectTimeout: "silence", client.ReadTimeout: "silence"}
        return known.get(type(error), type(error).__name__)


class InChaos(Place):
    """The policy `Chaos`, around a function."""

    def live(self, faults: tuple[Fault, ...], main: Main, keys: type, pipeline: Pipeline | None) -> None:
        chaos = Chaos(*faults, enabled=True, halt_rate=None, by=functools.partial(keys), seed=1)

        async def dependency(key: int) -> str:
            await asyncio.sleep(WORK)
            return "answer"

        virtual.run(main((chaos if pipeline is None else Pipeline(*pipeline.policies, chaos))(dependency)))


class UnderTransport(Place):
    """The chaos transports of a client."""

    client, ours = httpx, resilient.http.httpx
    classifier = HttpClassifier()

    def live(self, faults: tuple[Fault, ...], main: Main, keys: type, pipeline: Pipeline | None) -> None:
        async def server(request: Any) -> Any:
            await asyncio.sleep(WORK)
            return self.client.Response(200, content=BODY)

        chaos = self.ours.AsyncChaosTransport(
            *faults,
            transport=self.client.MockTransport(server),
            enabled=True,
            halt_rate=None,
            by=lambda request: keys(request.url.path[1:]),
            seed=1,
        )

        async def begin() -> None:
            transport = chaos if pipeline is None else self.ours.AsyncTransport(pipeline, transport=chaos)
            async with self.client.AsyncClient(transport=transport, timeout=None) as client:
                await main(lambda key: client.get(f"http://example.com/{key}"))

        virtual.run(begin())


class UnderTransport2(UnderTransport):
    """The chaos transports of httpx2."""

    client, ours = httpx2, resilient.http.httpx2
    classifier = resilient.http.httpx2.HttpClassifier()


class InScenario(Place):
    """`resilient simulate`: two servers, and errors that take no time."""

    calls: ClassVar[Calls | None] = None
    options: ClassVar[dict[str, Any]] = {}
    """Of each request."""

    def seen(
        self, faults: tuple[Fault, ...], probes: list[Probe], keys: type = int, pipeline: Pipeline | None = None
    ) -> list[Seen]:
        plan = ServicePlan(Constant(WORK), servers=2, balance="key", error_time=Constant(0.0))
        load = Replay(tuple(probe.at for probe in probes), tuple(str(probe.key) for probe in probes))
        scenario = Scenario(10_000, (load,), plan, keys=2, faults=faults, calls=self.calls)
        if pipeline is not None:
            run = simulate(scenario, candidate_from("theirs", pipeline))
            ended = zip(run.begins, run.ends, run.outcomes, strict=True)
            return [Seen(run.names[outcome].replace("success", "answer"), end - begin) for begin, end, outcome in ended]
        found: dict[int, Seen] = {}
        number = itertools.count()

        def decorator(ask: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[None]]:
            async def call(*args: Any, **options: Any) -> None:
                mine = next(number)
                found[mine] = await self.look(lambda key: ask(*args, **options, **self.options), None)

            return call

        simulate(scenario, Candidate("probes", lambda: decorator))
        return [found[number] for number in range(len(probes))]


class InHttpScenario(InScenario):
    """The scenario with calls that are requests of a client without timeouts."""

    calls, options = HttpCalls(url="http://example.com/{key}"), {"timeout": None}
    classifier = HttpClassifier()


class InDemo(Place):
    """The application of the demo's servers, and the experiment's crash of one of them, without processes."""

    thrift = WORK / 4
    classifier = HttpClassifier()

    def live(self, faults: tuple[Fault, ...], main: Main, keys: type, pipeline: Pipeline | None) -> None:
        crash = next((fault for fault in faults if isinstance(fault, Crash)), None)
        experiment = Experiment(Settings(seed=1, duration=20, rate=1))
        if crash is not None:
            experiment.plan = FaultPlan(experiment.plan.latency, (), crash)
        served = [fault for fault in faults if fault is not crash]
        servers = {number: Inventory(served, number, seed=1, median=WORK, spread=0) for number in (1, 2)}
        fleet: Any = Fleet({number: httpx.ASGITransport(server.application()) for number, server in servers.items()})

        async def begin() -> None:
            for server in servers.values():
                server.begin(0.0)
            transport = fleet if pipeline is None else AsyncTransport(pipeline, transport=fleet)
            async with httpx.AsyncClient(transport=transport, timeout=None) as client, asyncio.TaskGroup() as group:
                if crash is not None:
                    group.create_task(experiment._crash("plain", fleet, -1e-3))  # gone when the first request comes
                group.create_task(main(lambda key: client.get(f"http://{key}/items/1")))

        virtual.run(begin())


class Fleet(httpx.AsyncBaseTransport):
    """Applications instead of processes: a killed one refuses connections."""

    def __init__(self, servers: dict[int, httpx.ASGITransport]) -> None:
        self.servers = servers
        self.down: set[int] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        number = int(request.url.host)
        if number in self.down:
            raise httpx.ConnectError("refused")
        return await self.servers[number].handle_async_request(request)

    def kill(self, number: int) -> None:
        self.down.add(number)

    async def restart(self, number: int) -> None:
        self.down.remove(number)


PLACES: dict[str, Place] = {
    "chaos": InChaos(),
    "httpx": UnderTransport(),
    "httpx2": UnderTransport2(),
    "scenario": InScenario(),
    "HTTP scenario": InHttpScenario(),
    "demo": InDemo(),
}
