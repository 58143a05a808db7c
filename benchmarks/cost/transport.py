"""The cost that a transport adds to a request: multiples of a bare await, and processor time over loopback.

First around an instant transport, which returns the same response again and again, so only the cost of the guard is
left. The request is built by the client, so it has the client's timeouts, as in use. All figures, those of `def` too,
are multiples of a bare await of the same run. The method is in `measure`, the transports are in `clients`.

That response has been read. Our circuit waits for the end of a body that has not been read, so there is a group with
such bodies, each read to its end. `added` is the cost of a guard there.

The bars, for httpx and async, are ratios to peers in the same rounds: retries alone may cost as much as httpx-retries,
and standard() 0.7 times as much as httpx-retries around interlock's circuit.

Then under `AsyncClient.get` against a real server (`loopback`). There standard() may add 1.15 times the processor time
that httpx-retries around interlock adds; together, these peers do the most similar work. Each of several processes
gives one such ratio, and its interval is that of these ratios (`statistics`).
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from importlib import metadata
from math import inf
from typing import Any, Literal

from benchmarks.contenders import targets
from benchmarks.contenders.bars import Limit
from benchmarks.contenders.clients import CONTENDERS, LIBRARIES, Contender, Library
from benchmarks.contenders.targets import Stage
from benchmarks.harness import loopback
from benchmarks.harness.loopback import Paired
from benchmarks.harness.measure import Plan, Subject, Timing, compare, conditions, one_core
from benchmarks.harness.options import Options
from benchmarks.harness.processes import fresh
from benchmarks.harness.report import Bar, Column, Figure, Report
from benchmarks.harness.statistics import Spread

__all__ = ["run"]

QUICK = Plan(rounds=2, batch=0.004, processes=6)
FULL = Plan(rounds=7, batch=0.008, processes=9)
QUICK_LOOPBACK = loopback.Plan(rounds=200, requests=2, judged_blocks=3, seconds=2.5, processes=6)
FULL_LOOPBACK = loopback.Plan(rounds=400, requests=2, judged_blocks=3, processes=9)
COLUMNS = (
    Column("multiple_x", "multiple"),
    Column("added_x", "added", "{:+,.1f}"),
    Column("call_ns", "ns", "{:,.0f}"),
    Column("added_percent", "added CPU %", "{:+.2f}"),
    Column("added_low_percent", "from", "{:+.2f}"),
    Column("added_high_percent", "to", "{:+.2f}"),
    Column("ratio_x", "ratio", "{:,.2f}"),
    Column("ratio_low_x", "from", "{:,.2f}"),
    Column("ratio_high_x", "to", "{:,.2f}"),
    Column("pairs", "pairs", "{:,.0f}"),
    Column("request_cpu_ns", "CPU ns", "{:,.0f}"),
    Column("requests_per_s", "req/s", "{:,.0f}"),
)
URL = "https://api.example.com/users/17"
JUDGED = "standard()"
INSTANT = "the instant transport"
RIVAL = "httpx-retries + interlock-cb"
"""The peer whose work is most similar to that of `standard()`."""
_FLOORS = {
    "a bare await": "",
    INSTANT: "",
    "client.get, no guard": "new responses",
    "the plain client": "",
}
"""The rows without a policy, in the order of the report, with their notes."""


def run(options: Options) -> Report:
    """Measure the instant transports, then the clients over loopback."""
    plan = replace(QUICK if options.quick else FULL, seed=options.seed)
    alone = replace(plan, rounds=plan.rounds * max(1, plan.processes // 2), processes=1)  # for groups without a bar
    network = QUICK_LOOPBACK if options.quick else FULL_LOOPBACK
    figures: list[Figure] = []
    with loopback.Server() as server, one_core() as core:
        server.avoid(core)
        for is_async in (True, False):
            for library in LIBRARIES:
                several = plan if _judged(library, is_async, body=False) else alone
                figures += _instant(library, is_async, several, options)
        for library in LIBRARIES:
            figures += _instant(library, True, alone, options, body=True)
        for library in LIBRARIES:
            blocks = network if library == "httpx" else replace(network, processes=1)
            figures += _loopback(library, server.url, blocks, options)
    found = conditions(plan, core) | {
        "loopback_processes": network.processes,
        "loopback_rounds": network.rounds,
        "loopback_requests_per_block": network.requests,
        "versions": {name: _version(name) for name in ("httpx", "httpx2", "httpcore", "uvicorn", "httptools", "h11")},
        "garbage_collector": "instant: off within a batch, run between rounds; loopback: on",
    }
    return Report("transport", COLUMNS, figures, found)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


# -- around an instant transport ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Timed:
    """The timings around an instant transport in one process, by name, and the reasons why rows are missing."""

    timings: dict[str, Timing]
    problems: dict[str, str]


def _instant(library: Library, is_async: bool, plan: Plan, options: Options, body: bool = False) -> list[Figure]:
    """The figures of one library and mode: without a policy, of resilient, of the peers. With `body`, each response has
    a body to read."""
    group = f"{'with a body' if body else 'instant'}: {'async' if is_async else 'sync'}, {library}"
    try:
        importlib.import_module(library)
    except ImportError:
        return [Figure(group, library, note="not installed")]
    parts = fresh(functools.partial(_timed, library, is_async, body), plan.each(), options)
    timings = {name: Timing.pooled([each.timings[name] for each in parts]) for name in parts[0].timings}
    known = {contender.label: contender for contender in contenders(library, is_async)}
    labels = {contender.name: label for label, contender in known.items()}
    figures = [_figure(group, known[label], {}, problem) for label, problem in parts[0].problems.items()]
    for name, timing in timings.items():
        if name not in known:
            figures.append(Figure(group, name, timing.values(), note=_FLOORS.get(name, "")))
            continue
        limit = known[name].limit if _judged(library, is_async, body) else None
        rival = timings.get(labels.get(limit.against, "")) if limit else None
        values = {
            **timing.values(),
            **(timing.beyond(timings[INSTANT]).values("added_x") if body else {}),
            **(timing.against(rival).values("ratio_x") if rival else {}),
        }
        figures.append(_figure(group, known[name], values, limit=limit))
    return _sorted(figures)


def _judged(library: Library, is_async: bool, body: bool) -> bool:
    return library == "httpx" and is_async and not body


def _timed(library: Library, is_async: bool, body: bool, plan: Plan) -> Timed:
    module = importlib.import_module(library)
    bare = Subject("a bare await", targets.bare, True)
    problems: dict[str, str] = {}
    with Stage(is_async) as stage:
        subjects, ends = _floors(module, is_async, body), []
        for contender in contenders(library, is_async):
            built = _built(contender, library, is_async, instant(module, is_async, "body" if body else "read"))
            subject = built if isinstance(built, str) else _subject(contender, built, module, stage, body)
            if isinstance(subject, str):
                problems[contender.label] = subject
            else:
                subjects.append(subject)
                ends.append(functools.partial(_close, built, stage))
        timings = compare(bare, subjects, plan, stage.runner)
        for end in ends:
            end()
    return Timed(timings, problems)


def contenders(library: Library, is_async: bool) -> list[Contender]:
    """The transports that exist for this library and mode."""
    return [each for each in CONTENDERS if library in each.libraries and is_async in each.modes]


def instant(module: Any, is_async: bool, response: Literal["read", "new", "body"] = "read") -> Any:
    """A transport that answers at once: always with one response that has been read, with a new one each time, or with
    one whose body has not been read."""
    one = module.Response(200, content=b"ok")

    class Body(module.AsyncByteStream):  # type: ignore[misc, name-defined]
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"ok"

    def answer() -> Any:
        return module.Response(200, stream=Body()) if response == "body" else module.Response(200, content=b"ok")

    class Instant(module.AsyncBaseTransport):  # type: ignore[misc, name-defined]
        async def handle_async_request(self, request: Any) -> Any:
            return one if response == "read" else answer()

    class PlainInstant(module.BaseTransport):  # type: ignore[misc, name-defined]
        def handle_request(self, request: Any) -> Any:
            return one if response == "read" else answer()

    return Instant() if is_async else PlainInstant()


def _read(handle: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A function that sends a request and reads the response to its end, which closes it."""

    async def exchange(request: Any) -> Any:
        response = await handle(request)
        await response.aread()
        return response

    return exchange


def _built(contender: Contender, library: Library, is_async: bool, inner: Any) -> Any:
    """The transport, or the reason why there is none."""
    try:
        return contender.build(library, is_async, inner)
    except Exception as error:
        return _problem(contender, error)


def _problem(contender: Contender, error: Exception) -> str:
    """The reason why a peer is not measured. For a transport of resilient, raises the error instead."""
    if contender.ours:
        raise error
    if isinstance(error, ModuleNotFoundError):
        return "not installed"
    return f"not measured: {type(error).__name__}: {error}"


def _subject(contender: Contender, transport: Any, module: Any, stage: Stage, body: bool = False) -> Subject | str:
    """The subject to time, after one request; or the reason why it cannot be timed."""
    call = transport.handle_async_request if stage.is_async else transport.handle_request
    if body:
        call = _read(call)
    argument = request(module, stage.is_async)
    try:
        response = stage.call(call, argument)
        assert response.status_code == 200, f"the status is {response.status_code}"
    except Exception as error:
        return _problem(contender, error)
    return Subject(contender.label, call, stage.is_async, argument=argument)


def request(module: Any, is_async: bool) -> Any:
    """A request as the client builds it, with its headers and its timeouts."""
    client = module.AsyncClient() if is_async else module.Client()
    return client.build_request("GET", URL)


def _floors(module: Any, is_async: bool, body: bool) -> list[Subject]:
    """The subjects without a policy: the instant transport alone, and the client around one."""
    if body:
        handle = instant(module, is_async, "body").handle_async_request
        return [Subject(INSTANT, _read(handle), is_async, argument=request(module, is_async))]
    transport = instant(module, is_async)
    handle = transport.handle_async_request if is_async else transport.handle_request
    kind = module.AsyncClient if is_async else module.Client
    get = kind(transport=instant(module, is_async, "new")).get
    return [
        Subject(INSTANT, handle, is_async, argument=request(module, is_async)),
        Subject("client.get, no guard", get, is_async, argument=URL),
    ]


def _close(transport: Any, stage: Stage) -> None:
    """Close the transport, which ends its tasks and threads."""
    if stage.is_async:
        stage.runner.run(transport.aclose())
    else:
        transport.close()


def _figure(
    group: str, contender: Contender, values: dict[str, float], problem: str = "", limit: Limit | None = None
) -> Figure:
    bar = Bar("ratio_x", limit.times, against=limit.against) if limit else None
    return Figure(group, contender.label, values, bar, contender.ours, problem or contender.note)


def _sorted(figures: list[Figure]) -> list[Figure]:
    """Sort the rows: those without a policy, then those of resilient, then the peers from the fastest."""
    ours = [contender.label for contender in CONTENDERS if contender.ours]

    def place(figure: Figure) -> tuple[int, float]:
        if figure.name in _FLOORS:
            return 0, list(_FLOORS).index(figure.name)
        if figure.ours:
            return 1, ours.index(figure.name)
        return 2, figure.values.get("multiple_x", figure.values.get("added_percent", inf))

    return sorted(figures, key=place)


# -- over loopback --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Blocks:
    """The blocks of one process: the plain client, the others by name, and the reasons why rows are missing."""

    base: Paired
    paired: dict[str, Paired]
    problems: dict[str, str]


def _loopback(library: Library, url: str, plan: loopback.Plan, options: Options) -> list[Figure]:
    """The figures of one library over loopback: of the plain client, of resilient, of the peers."""
    group = f"loopback: {library}"
    try:
        importlib.import_module(library)
    except ImportError:
        return [Figure(group, library, note="not installed")]
    seeds = range(options.seed, options.seed + plan.processes)
    parts = fresh(functools.partial(_blocks, library, url, plan), list(seeds), options)
    figures = [Figure(group, "the plain client", Paired.pooled([each.base for each in parts]).costs())]
    for contender in contenders(library, is_async=True):
        name = contender.label
        if name in parts[0].problems:
            figures.append(_figure(group, contender, {}, parts[0].problems[name]))
            continue
        values, bar = Paired.pooled([each.paired[name] for each in parts]).values(), None
        if name == JUDGED and library == "httpx":
            bar = Bar("ratio_x", 1.15, against=RIVAL)
            if all(RIVAL in each.paired for each in parts):
                ratios = [each.paired[name].added() / each.paired[RIVAL].added() for each in parts]
                values |= Spread.of([ratios]).values("ratio_x")
        figures.append(Figure(group, name, values, bar, contender.ours, contender.note))
    return _sorted(figures)


def _blocks(library: Library, url: str, plan: loopback.Plan, seed: int) -> Blocks:
    return asyncio.run(_measured(library, url, plan, seed))


async def _measured(library: Library, url: str, plan: loopback.Plan, seed: int) -> Blocks:
    module = importlib.import_module(library)
    clients, problems = {}, {}
    async with AsyncExitStack() as open_clients:

        def client(transport: Any) -> Any:
            made = module.AsyncClient(transport=transport)
            open_clients.push_async_callback(made.aclose)
            return made

        plain = client(module.AsyncHTTPTransport())
        for contender in contenders(library, is_async=True):
            built = _built(contender, library, True, module.AsyncHTTPTransport())
            if not isinstance(built, str):
                try:
                    await loopback.measure(client(built), url, 1)
                except Exception as error:
                    built = _problem(contender, error)
            if isinstance(built, str):
                problems[contender.label] = built
            else:
                clients[contender.label] = client(built)
        base, found = await loopback.compare(plain, clients, (JUDGED, RIVAL), url, plan, random.Random(seed))
    return Blocks(base, found, problems)
