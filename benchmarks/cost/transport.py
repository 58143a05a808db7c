"""What a transport costs a request that needs none of it: multiples of a bare await, and processor time over loopback.

First around an instant transport, which returns the same response again and again: so all that is left is the guard's
own cost. The request is one that the client has built, so that it has the client's timeouts, as in use. All figures, of
`def` too, are multiples of a bare await of the same run; the method is in `measure`, the transports are in `clients`.

That response has been read. A circuit of ours waits for the end of a body that is still to come, so there is a group
with such bodies, each read to its end; `added` is what a guard costs there.

The bars, for httpx and async, are ratios to peers in the same rounds: retries only may take as much as httpx-retries,
and standard() .7 times as much as httpx-retries around interlock's circuit.

Then under `AsyncClient.get` against a real server: `loopback`. There standard() may add 1.15 times the processor time
that httpx-retries around interlock adds, the peers that are nearest to it together; each of several processes gives one
such ratio, and its interval is that of these (`spread`).
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
from benchmarks.contenders.clients import CONTESTANTS, LIBRARIES, Contestant, Library
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
"""The peer that comes nearest to `standard()` in what it does."""
_FLOORS = {
    "a bare await": "",
    INSTANT: "",
    "client.get, no guard": "new responses",
    "the plain client": "",
}
"""What no policy takes, in the order of the report, with notes."""


def run(options: Options) -> Report:
    """The instant transports, then the loopback."""
    plan = replace(QUICK if options.quick else FULL, seed=options.seed)
    alone = replace(plan, rounds=plan.rounds * max(1, plan.processes // 2), processes=1)  # where nothing is judged
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
    """What one process has measured around an instant transport: by name; and why some are missing."""

    timings: dict[str, Timing]
    problems: dict[str, str]


def _instant(library: Library, is_async: bool, plan: Plan, options: Options, body: bool = False) -> list[Figure]:
    """The figures of one library and mode: floors, ours, the peers. With `body`, each response has one to be read."""
    group = f"{'with a body' if body else 'instant'}: {'async' if is_async else 'sync'}, {library}"
    try:
        importlib.import_module(library)
    except ImportError:
        return [Figure(group, library, note="not installed")]
    parts = fresh(functools.partial(_timed, library, is_async, body), plan.each(), options)
    timings = {name: Timing.pooled([each.timings[name] for each in parts]) for name in parts[0].timings}
    known = {contestant.label: contestant for contestant in contestants(library, is_async)}
    labels = {contestant.name: label for label, contestant in known.items()}
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
        for contestant in contestants(library, is_async):
            built = _built(contestant, library, is_async, instant(module, is_async, "body" if body else "read"))
            subject = built if isinstance(built, str) else _subject(contestant, built, module, stage, body)
            if isinstance(subject, str):
                problems[contestant.label] = subject
            else:
                subjects.append(subject)
                ends.append(functools.partial(_close, built, stage))
        timings = compare(bare, subjects, plan, stage.runner)
        for end in ends:
            end()
    return Timed(timings, problems)


def contestants(library: Library, is_async: bool) -> list[Contestant]:
    """Those that there are for this library and mode."""
    return [each for each in CONTESTANTS if library in each.libraries and is_async in each.modes]


def instant(module: Any, is_async: bool, response: Literal["read", "new", "body"] = "read") -> Any:
    """A transport that answers at once: with one response that has been read, with a new one each time, or with one
    whose body is to be read."""
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
    """Send a request, and read the response to its end, which closes it."""

    async def exchange(request: Any) -> Any:
        response = await handle(request)
        await response.aread()
        return response

    return exchange


def _built(contestant: Contestant, library: Library, is_async: bool, inner: Any) -> Any:
    """The transport, or why there is none."""
    try:
        return contestant.build(library, is_async, inner)
    except Exception as error:
        return _problem(contestant, error)


def _problem(contestant: Contestant, error: Exception) -> str:
    """Why a peer is not measured. Ours always is."""
    if contestant.ours:
        raise error
    if isinstance(error, ModuleNotFoundError):
        return "not installed"
    return f"not measured: {type(error).__name__}: {error}"


def _subject(contestant: Contestant, transport: Any, module: Any, stage: Stage, body: bool = False) -> Subject | str:
    """What to time, once it has answered; or why it cannot be timed."""
    call = transport.handle_async_request if stage.is_async else transport.handle_request
    if body:
        call = _read(call)
    argument = request(module, stage.is_async)
    try:
        response = stage.call(call, argument)
        assert response.status_code == 200, f"the status is {response.status_code}"
    except Exception as error:
        return _problem(contestant, error)
    return Subject(contestant.label, call, stage.is_async, argument=argument)


def request(module: Any, is_async: bool) -> Any:
    """As the client builds it: with its headers and its timeouts."""
    client = module.AsyncClient() if is_async else module.Client()
    return client.build_request("GET", URL)


def _floors(module: Any, is_async: bool, body: bool) -> list[Subject]:
    """The instant transport alone, and all that the client does around one."""
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
    """End its tasks and threads."""
    if stage.is_async:
        stage.runner.run(transport.aclose())
    else:
        transport.close()


def _figure(
    group: str, contestant: Contestant, values: dict[str, float], problem: str = "", limit: Limit | None = None
) -> Figure:
    bar = Bar("ratio_x", limit.times, against=limit.against) if limit else None
    return Figure(group, contestant.label, values, bar, contestant.ours, problem or contestant.note)


def _sorted(figures: list[Figure]) -> list[Figure]:
    """What no policy takes, then ours, then the peers, the fastest first."""
    ours = [contestant.label for contestant in CONTESTANTS if contestant.ours]

    def place(figure: Figure) -> tuple[int, float]:
        if figure.name in _FLOORS:
            return 0, list(_FLOORS).index(figure.name)
        if figure.ours:
            return 1, ours.index(figure.name)
        return 2, figure.values.get("multiple_x", figure.values.get("added_percent", inf))

    return sorted(figures, key=place)


# -- over the loopback ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Blocks:
    """What one process has measured: the plain client, the others by name, and why some are missing."""

    base: Paired
    paired: dict[str, Paired]
    problems: dict[str, str]


def _loopback(library: Library, url: str, plan: loopback.Plan, options: Options) -> list[Figure]:
    """The figures of one library's clients, in several processes: the plain one, ours, the peers."""
    group = f"loopback: {library}"
    try:
        importlib.import_module(library)
    except ImportError:
        return [Figure(group, library, note="not installed")]
    seeds = range(options.seed, options.seed + plan.processes)
    parts = fresh(functools.partial(_blocks, library, url, plan), list(seeds), options)
    figures = [Figure(group, "the plain client", Paired.pooled([each.base for each in parts]).costs())]
    for contestant in contestants(library, is_async=True):
        name = contestant.label
        if name in parts[0].problems:
            figures.append(_figure(group, contestant, {}, parts[0].problems[name]))
            continue
        values, bar = Paired.pooled([each.paired[name] for each in parts]).values(), None
        if name == JUDGED and library == "httpx":
            bar = Bar("ratio_x", 1.15, against=RIVAL)
            if all(RIVAL in each.paired for each in parts):
                ratios = [each.paired[name].added() / each.paired[RIVAL].added() for each in parts]
                values |= Spread.of([ratios]).values("ratio_x")
        figures.append(Figure(group, name, values, bar, contestant.ours, contestant.note))
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
        for contestant in contestants(library, is_async=True):
            built = _built(contestant, library, True, module.AsyncHTTPTransport())
            if not isinstance(built, str):
                try:
                    await loopback.measure(client(built), url, 1)
                except Exception as error:
                    built = _problem(contestant, error)
            if isinstance(built, str):
                problems[contestant.label] = built
            else:
                clients[contestant.label] = client(built)
        base, found = await loopback.compare(plain, clients, (JUDGED, RIVAL), url, plan, random.Random(seed))
    return Blocks(base, found, problems)
