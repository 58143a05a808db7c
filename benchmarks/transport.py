"""What a transport costs a request that needs none of it: multiples of a bare await, and processor time over loopback.

First around an instant transport, which returns the same response again and again: so all that is left is the guard's
own cost. The request is one that the client has built, so that it has the client's timeouts, as in use. All figures, of
`def` too, are multiples of a bare await of the same run; the method is in `measure`, the transports are in `clients`.

That response has been read. A circuit of ours waits for the end of a body that is still to come, so there is a group
with such bodies, each read to its end; `added` is what a guard costs there.

The bars, for httpx and async, come from an earlier run: there the instant transport itself took 1.4, httpx-retries
12.8, interlock's circuit 86, hedge-python 589, httpx-hedged 807, and `AsyncClient.get` 924. Retries only may take as
much as httpx-retries, standard() 60.

Then under `AsyncClient.get` against a real server: `loopback`. There standard() may add 3% to the processor time of the
plain client's request.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import platform
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from importlib import metadata
from math import inf
from typing import Any, Literal

from benchmarks import loopback, measure, targets
from benchmarks.clients import CONTESTANTS, LIBRARIES, Contestant, Library
from benchmarks.measure import Plan, Subject, Timing, compare, one_core
from benchmarks.options import Options
from benchmarks.report import Bar, Column, Figure, Report
from benchmarks.targets import Stage

__all__ = ["run"]

QUICK = Plan(rounds=15, batch=0.005)
FULL = Plan(rounds=60, batch=0.008)
QUICK_LOOPBACK = loopback.Plan(rounds=30, requests=25, judged_blocks=3, seconds=11)
FULL_LOOPBACK = loopback.Plan(rounds=120, requests=25, judged_blocks=3)
COLUMNS = (
    Column("multiple_x", "multiple"),
    Column("added_x", "added", "{:+,.1f}"),
    Column("call_ns", "ns", "{:,.0f}"),
    Column("added_percent", "added CPU %", "{:+.2f}"),
    Column("added_low_percent", "from", "{:+.2f}"),
    Column("added_high_percent", "to", "{:+.2f}"),
    Column("pairs", "pairs", "{:,.0f}"),
    Column("request_cpu_ns", "CPU ns", "{:,.0f}"),
    Column("requests_per_s", "req/s", "{:,.0f}"),
)
URL = "https://api.example.com/users/17"
JUDGED = "standard()"
INSTANT = "the instant transport"
ADDED = Bar("added_percent", 3)
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
    network = QUICK_LOOPBACK if options.quick else FULL_LOOPBACK
    figures: list[Figure] = []
    with loopback.Server() as server, one_core() as core:
        server.avoid(core)
        for is_async in (True, False):
            for library in LIBRARIES:
                figures += _instant(library, is_async, plan, options)
        for library in LIBRARIES:
            figures += _instant(library, True, plan, options, body=True)
        for library in LIBRARIES:
            figures += asyncio.run(_loopback(library, server.url, network, options))
    conditions = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "core": core,
        "rounds": plan.rounds,
        "batch_s": plan.batch,
        "loopback_rounds": network.rounds,
        "loopback_requests_per_block": network.requests,
        "seed": options.seed,
        "clock": measure.clock.__name__,
        "versions": {name: _version(name) for name in ("httpx", "httpx2", "httpcore", "uvicorn", "httptools", "h11")},
        "garbage_collector": "instant: off within a batch, run between rounds; loopback: on",
    }
    return Report("transport", COLUMNS, figures, conditions)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


# -- around an instant transport ------------------------------------------------------------------------------------


def _instant(library: Library, is_async: bool, plan: Plan, options: Options, body: bool = False) -> list[Figure]:
    """The figures of one library and mode: floors, ours, the peers. With `body`, each response has one to be read."""
    mode = "async" if is_async else "sync"
    group = f"{'with a body' if body else 'instant'}: {mode}, {library}"
    try:
        module = importlib.import_module(library)
    except ImportError:
        return [Figure(group, library, note="not installed")]
    bare = Subject("a bare await", targets.bare, True)
    known = {contestant.label: contestant for contestant in contestants(library, is_async)}
    with Stage(is_async) as stage:
        subjects, figures, ends = _floors(module, is_async, body), [], []
        for contestant in known.values():
            built = _built(contestant, library, is_async, instant(module, is_async, "body" if body else "read"))
            subject = built if isinstance(built, str) else _subject(contestant, built, module, stage, body)
            if isinstance(subject, str):
                figures.append(_figure(group, contestant, {}, subject))
            else:
                subjects.append(subject)
                ends.append(functools.partial(_close, built, stage))
        track = functools.partial(options.track, label=group)
        timings = compare(bare, subjects, plan, stage.runner, track)
        for end in ends:
            end()
    floor = timings[INSTANT]
    for name, timing in timings.items():
        if name in known:
            judged = library == "httpx" and is_async and not body
            figures.append(_figure(group, known[name], _values(timing, floor if body else None), judged=judged))
        else:
            figures.append(Figure(group, name, _values(timing), note=_FLOORS.get(name, "")))
    return _sorted(figures)


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


def _values(timing: Timing, floor: Timing | None = None) -> dict[str, float]:
    added = {} if floor is None else timing.beyond(floor).values("added_x")
    return {**timing.values(), **added}


def _figure(
    group: str, contestant: Contestant, values: dict[str, float], problem: str = "", judged: bool = False
) -> Figure:
    bar = Bar("multiple_x", contestant.bar) if judged and contestant.bar else None
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


async def _loopback(library: Library, url: str, plan: loopback.Plan, options: Options) -> list[Figure]:
    """The figures of one library's clients: the plain one, ours, the peers."""
    group = f"loopback: {library}"
    try:
        module = importlib.import_module(library)
    except ImportError:
        return [Figure(group, library, note="not installed")]
    clients, figures = {}, []
    async with AsyncExitStack() as open_clients:

        def client(transport: Any) -> Any:
            made = module.AsyncClient(transport=transport)
            open_clients.push_async_callback(made.aclose)
            return made

        plain = client(module.AsyncHTTPTransport())
        known = {contestant.label: contestant for contestant in contestants(library, is_async=True)}
        for name, contestant in known.items():
            built = _built(contestant, library, True, module.AsyncHTTPTransport())
            if not isinstance(built, str):
                try:
                    await loopback.measure(client(built), url, 1)
                except Exception as error:
                    built = _problem(contestant, error)
            if isinstance(built, str):
                figures.append(_figure(group, contestant, {}, built))
            else:
                clients[name] = client(built)
        track = functools.partial(options.track, label=f"loopback, {library}")
        order = random.Random(options.seed)
        base, found = await loopback.compare(plain, clients, JUDGED, url, plan, order, track)
    figures.append(Figure(group, "the plain client", base.costs()))
    for name, paired in found.items():
        bar = ADDED if name == JUDGED and library == "httpx" else None
        figures.append(Figure(group, name, paired.values(), bar, known[name].ours, known[name].note))
    return _sorted(figures)
