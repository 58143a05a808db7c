"""One run of a world: clients with their pipelines, a service, and a clock that jumps.

    from resilient import standard
    from resilient.faults import Stall
    from resilient.lab.candidates import candidate_from
    from resilient.lab.distributions import Exponential
    from resilient.lab.load import Poisson
    from resilient.lab.measures import Measures
    from resilient.lab.service import ServicePlan
    from resilient.lab.world import Scenario, simulate

    scenario = Scenario(
        duration=120,
        loads=(Poisson(700),),
        clients=100,
        service=ServicePlan(service_time=Exponential(0.1), workers=100),
        faults=(Stall(start=30, end=40),),
    )
    run = simulate(scenario, candidate_from("standard", standard()), seed=1)
    print(Measures([run]).as_json())

Everything random comes from the seed, including the jitter of policies (`random` is seeded for the run and restored
after it): two runs with the same seed are the same in every call. Arrivals and clients are the same for every
candidate.

`resilient.lab.replay` makes a scenario of a recorded trace. `simulate(..., watch=function)` calls `function` with every
new pipeline; it may `listen` to the pipeline, or keep it for its `snapshot()`.
"""

from __future__ import annotations

import asyncio
import random
from asyncio import Task
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import replace
from typing import Any

from resilient._atomic import module_lock
from resilient.core.policy import Policy
from resilient.core.priority import NORMAL, PRIORITIES, RANKS, Priority, priority
from resilient.errors import Deadlock, VirtualTimeError
from resilient.explain.error_location import located
from resilient.faults import Errors
from resilient.lab.answers import ANSWER, CandidateError, outcome_of
from resilient.lab.calls import KEYED, Wire
from resilient.lab.candidates import Candidate
from resilient.lab.event_loop import WorldLoop
from resilient.lab.fresh_policies import dry_run
from resilient.lab.http import HttpCalls, unlogged
from resilient.lab.policy_states import PolicyStates, Sample
from resilient.lab.request import with_priority
from resilient.lab.run import Run
from resilient.lab.scenario import Scenario
from resilient.lab.service import MOST_REQUESTS, build_service
from resilient.pipeline import Pipeline

__all__ = ["CandidateError", "Run", "Sample", "Scenario", "simulate"]


class _Call(str):
    """The argument of a guarded function: the key; and for the lab, the number of requests of this call."""

    __slots__ = ("begin", "rank", "requests")
    begin: float
    rank: int
    requests: int


class _World:
    """The clients of one run, and the service."""

    def __init__(self, run: Run, loop: WorldLoop, watch: Callable[[Pipeline], object] | None) -> None:
        scenario = run.scenario
        self.run = run
        self.loop = loop
        self.duration = float(scenario.duration)
        self.clients = scenario.clients
        self.numbers: dict[str, int] = {name: number for number, name in enumerate(run.names)}
        seed = f"{run.seed}"
        self.keys = scenario.keys
        self.draw_key = random.Random(f"{seed} keys").random
        plan = scenario.service
        if run.candidate.admission is not None:
            plan = replace(plan, admission=run.candidate.admission)
        self.service = build_service(plan, scenario.faults, loop, seed)
        named = (fault for fault in scenario.faults if isinstance(fault, Errors) and fault.error is not None)
        self.meant = {type(fault.failure()) for fault in named}
        self.deadline_header = run.candidate.deadline_header
        self.contexts = {name: with_priority(copy_context(), name) for name in PRIORITIES}
        self.over: asyncio.Future[None] = loop.create_future()
        self.calling = 0  # number of loads that have not ended
        self.inside: dict[int, asyncio.Task[None]] = {}
        self.watched = PolicyStates()
        self.ended: list[_Call] | None = None
        """The ended calls of a decorator that is no policy: such a decorator may send requests in the background
        afterwards."""
        self.calls = KEYED
        self.luck = random.Random(f"{seed} answers").random
        self.guarded = [self._guard(run.candidate.make(), watch) for _ in range(scenario.clients)]

    def _guard(self, guard: Any, watch: Callable[[Pipeline], object] | None) -> Callable[[_Call], Any]:
        client, calls = self.run.candidate.client, self.run.scenario.calls
        if calls is None and client is not None:
            calls = HttpCalls()
        if calls is None:
            return self._guard_keyed(guard, watch)
        self.calls = calls
        wire = Wire(calls, self.service, self.luck, client, self.deadline_header, self.service.admit is not None)
        guarded, pipeline = calls.guarded(guard, wire)
        if pipeline is not None:
            self._adopt(pipeline, watch)
        return wire.caller(guarded)

    def _adopt(self, pipeline: Pipeline, watch: Callable[[Pipeline], object] | None) -> None:
        """Check, sample and watch the pipeline of a client."""
        self.calls.check_classifier(pipeline)
        self.watched.add(pipeline)
        if watch is not None:
            watch(pipeline)

    def _guard_keyed(self, guard: Any, watch: Callable[[Pipeline], object] | None) -> Callable[[_Call], Any]:
        """The guarded function of a client in a scenario without `calls`, with as little code as possible for each
        call."""
        ask = self.service.ask

        async def request(call: _Call) -> object:
            call.requests += 1
            return await ask(call)

        if not isinstance(guard, Policy):
            self.ended = []
            return guard(request)  # type: ignore[no-any-return]

        def attempt(made: Any) -> Any:
            call = made.args[0]
            call.requests += 1
            return ask(call, made.deadline)

        def without_deadline(made: Any) -> Any:
            call = made.args[0]
            call.requests += 1
            return ask(call)

        pipeline = guard if isinstance(guard, Pipeline) else Pipeline(guard)
        self._adopt(pipeline, watch)
        ask_it = attempt if self.deadline_header else without_deadline
        return pipeline._derive(pipeline.policies, attempt=lambda context: ask_it)(request)

    # -- calls --------------------------------------------------------------------------------------------------

    def _new_call(self, key: str | None, urgency: Priority) -> _Call:
        if key is None:
            key = "1" if self.keys == 1 else str(1 + int(self.keys * self.draw_key()))
        call = _Call(key)
        call.requests = 0
        call.rank = RANKS[urgency]
        call.begin = self.loop._now
        return call

    def call(self, client: int, key: str | None = None, urgency: Priority = NORMAL) -> None:
        call = self._new_call(key, urgency)
        context = None if urgency == NORMAL else self.contexts[urgency].copy()
        made = self._make(self.guarded[client], call)
        self.inside[id(call)] = Task(made, loop=self.loop, name="call", context=context)  # `create_task` takes longer

    async def await_call(self, client: int, urgency: Priority = NORMAL) -> None:
        with priority(urgency):
            await self._make(self.guarded[client], self._new_call(None, urgency))

    async def _make(self, guarded: Callable[[_Call], Any], call: _Call) -> None:
        run = self.run
        outcome = 0
        try:
            result = await guarded(call)
            if result is not ANSWER:
                outcome = 1
        except Exception as error:
            outcome = self._failed(error, call)
        except asyncio.CancelledError:
            outcome = 2
            raise
        finally:
            run.begins.append(call.begin)
            run.ends.append(self.loop._now)
            run.outcomes.append(outcome)
            run.requests.append(call.requests)
            if self.ended is not None:
                self.ended.append(call)
            run.priorities.append(call.rank)
            self.inside.pop(id(call), None)
            if not self.calling and not self.inside and not self.over.done():
                self.over.set_result(None)

    def _failed(self, error: Exception, call: _Call) -> int:
        """The number of the outcome of a failed call. An error that is neither a failure of the service nor a refusal
        of a policy ends the run. An exception that a fault names is a failure of the service."""
        blamed: Exception | None = None
        if type(error) not in self.meant:
            blamed = error if isinstance(error, MemoryError) else self.calls.mistake(error, call)
        if blamed is not None and not self.over.done():
            self.over.set_exception(blamed)
        name = outcome_of(error)
        outcome = self.numbers.get(name, -1)
        if outcome < 0:
            outcome = self.numbers[name] = len(self.run.names)
            self.run.names.append(name)
        return outcome

    def expect(self) -> None:
        self.calling += 1

    def done(self) -> None:
        self.calling -= 1
        if not self.calling and not self.inside and not self.over.done():
            self.over.set_result(None)

    # -- the run ------------------------------------------------------------------------------------------------

    async def live(self, progress: Callable[[float], object] | None) -> None:
        scenario, loop = self.run.scenario, self.loop
        self.expect()
        for number, load in enumerate(scenario.loads):
            load.start(self, f"{self.run.seed} load {number}")
        steps = int(scenario.duration / self.run.step + 1e-9)
        for number in range(steps + 1):
            loop.at(number * self.run.step, self._sample, progress)
        loop.at(self.duration + scenario.drain, self._end)
        self.done()
        try:
            await self.over
        finally:
            left = [*self.inside.values(), *loop.kept, *self.service.tasks]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            for number, call in enumerate(self.ended or ()):
                self.run.requests[number] = call.requests
            self.run.sent = self.service.sent
            self.run.executed = self.service.executed
            self.run.acted = [self.service.acted[id(fault)] for fault in scenario.faults]

    def _end(self, _: object) -> None:
        if not self.over.done():
            self.over.set_result(None)

    def _sample(self, progress: Callable[[float], object] | None) -> None:
        now = self.loop._now
        self.run.samples.append(self.watched.sample(now, self.service.admissions))
        if progress is not None:
            progress(min(1.0, now / self.duration))


def step_of(duration: float, calls: float) -> float:
    """Seconds between two points of a curve: a round number that gives at most 150 points; fewer, down to 20, if they
    would have less than ten `calls` each."""
    size, points = 0.001, max(20, min(150, calls / 10))
    while True:
        for factor in (1, 2, 5):
            if size * factor * points >= duration:
                return round(size * factor, 3)
        size *= 10


def simulate(
    scenario: Scenario,
    candidate: Candidate,
    seed: int = 1,
    *,
    progress: Callable[[float], object] | None = None,
    watch: Callable[[Pipeline], object] | None = None,
    most_requests: float = MOST_REQUESTS,
    run_hooks: bool = False,
) -> Run:
    """Run a scenario with one candidate.

    Args:
        seed: of everything random.
        progress: is called now and then with the share of the duration that is over.
        watch: is called with every pipeline that the candidate makes.
        most_requests: the run ends with an error beyond this number of requests.
        run_hooks: run code of the candidate that may have effects outside the simulation (see
            `resilient.lab.fresh_policies`), instead of counting it in `Run.not_run`.

    One run at a time: a simulation in another thread waits. (`random` belongs to the run: a thread that draws from it
    meanwhile changes the result.) Raises `RuntimeError` inside a running event loop: write `await
    asyncio.to_thread(simulate, ...)`.

    Raises `CandidateError` if a guarded call raises a programming error, does real I/O, or never ends; if the
    candidate's classifier, key function or strategy cannot handle the calls and answers of the scenario; and if
    anything else ends the run, for example a lack of memory. The message names the candidate, and the line of the
    user's code.
    """
    calls = sum(load.expected(scenario.duration, 0.0) for load in scenario.loads)
    run = Run(scenario, candidate, seed, step_of(scenario.duration, calls))

    async def live() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, WorldLoop)
        world = _World(run, loop, watch)
        world.service.most = most_requests
        await world.live(progress)

    if asyncio._get_running_loop() is not None:
        raise RuntimeError(
            "simulate has an event loop of its own, and was called where another one runs: "
            "write await asyncio.to_thread(simulate, ...)"
        )
    try:
        with (
            _one_run_at_a_time(seed),
            unlogged(),
            dry_run(run_hooks=run_hooks) as dry,
            asyncio.Runner(loop_factory=WorldLoop) as runner,
        ):
            run.not_run = dry.not_run
            runner.run(live())
    except CandidateError as error:
        raise CandidateError(f"{candidate.name}: {error}") from error.__cause__
    except (Deadlock, VirtualTimeError) as error:
        raise CandidateError(f"{candidate.name}: {str(error).splitlines()[0].rstrip(':')}") from error
    except (Exception, SystemExit) as error:  # from the candidate's `make`, a listener, or a lack of memory
        raise CandidateError(f"{candidate.name}: the run ended with {located(error)}") from error
    return run


@contextmanager
def _one_run_at_a_time(seed: int) -> Iterator[None]:
    """Give a run the process-wide state that it uses: Python's random numbers, which are seeded for it and restored,
    and the loggers of clients. Runs of other threads wait until it is over."""
    with _one_at_a_time:
        before = random.getstate()
        random.seed(f"{seed} policies")
        try:
            yield
        finally:
            random.setstate(before)


_one_at_a_time = module_lock()
