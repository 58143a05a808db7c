"""Reads the live page of a process: its stream of states, differences and events (`resilient.observe.live`)."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from typing import Any, cast

import httpx

from resilient._validation import legible
from resilient.cli.watch.reading import Line, Permits, PipelineState, Reading, SourceError, number, printable
from resilient.observe.live import apply

__all__ = ["FORMAT", "EventStream", "read_live", "reading_of"]

FORMAT = 1
"""The format of the state that is read here."""

SILENCE = 15.0
"""Seconds without a message after which the page is asked again: it sends one each second."""

LONGEST = 64 * 2**20
"""The most bytes of one message."""

DEEPEST = 20
"""The most pipelines inside each other."""


async def read_live(client: httpx.AsyncClient, url: str) -> AsyncGenerator[Reading]:
    """Yield a reading for each message of the page at `url`, until its server ends the stream.

    Raises `SourceError` for messages that cannot be understood, and `httpx.HTTPError`.
    """
    stream, states = EventStream(), _States()
    timeout = httpx.Timeout(10, read=SILENCE)
    async with client.stream(
        "GET", f"{url}/events", timeout=timeout, headers={"Accept": "text/event-stream"}
    ) as answer:
        if answer.status_code != 200:
            text = (await answer.aread())[:500].decode(errors="replace")
            raise SourceError(f"{answer.status_code}: {printable(text)}", final=400 <= answer.status_code < 500)
        async with aclosing(cast("AsyncGenerator[bytes]", answer.aiter_bytes())) as parts:
            async for part in parts:
                for kind, data in stream.feed(part):
                    found = states.take(kind, data)
                    if found is not None:
                        yield found


class _States:
    """Makes readings of the messages of one stream."""

    def __init__(self) -> None:
        self._state: dict[str, Any] | None = None
        self._lines: list[Line] = []
        self._before: Reading | None = None
        self._tick: object = None

    def take(self, kind: str, data: Any) -> Reading | None:
        """Take one message. Returns the reading, once there is a state."""
        if kind == "lines" and isinstance(data, list):
            self._lines += [_line(each) for each in data if isinstance(each, dict)]
        elif kind == "state" and isinstance(data, dict):
            self._state = data
        elif kind == "change" and isinstance(data, dict) and self._state is not None:
            try:
                self._state = apply(self._state, data)
            except RecursionError:
                raise SourceError("a state that is nested too deeply", final=True) from None
        if self._state is None:
            return None
        found = reading_of(self._state)
        found.lines, self._lines = self._lines, []
        found.fresh, self._tick = self._state.get("tick") != self._tick, self._state.get("tick")
        if found.fresh:
            _add_rates(self._before, found)
            self._before = found
        elif self._before is not None:
            _keep_rates(self._before, found)
        return found


class EventStream:
    """Takes a stream of server-sent events apart."""

    def __init__(self) -> None:
        self._left = b""
        self._kind, self._data = "message", b""

    def feed(self, part: bytes) -> Iterator[tuple[str, Any]]:
        """Yield the kind and the data of each event that ends in this part. Raises `SourceError` for data that are no
        JSON, or more than 64 MiB."""
        *whole, self._left = (self._left + part).split(b"\n")
        for line in whole:
            name, _, value = line.rstrip(b"\r").partition(b":")
            value = value.removeprefix(b" ")
            if name == b"event":
                self._kind = value.decode(errors="replace")
            elif name == b"data":
                self._data += value
            elif not line.strip():
                kind, data = self._kind, self._data
                self._kind, self._data = "message", b""
                if data:
                    yield kind, _json(data)
        if len(self._left) + len(self._data) > LONGEST:
            raise SourceError(f"a message of more than {LONGEST:,} bytes", final=True)


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise SourceError("a message that is no JSON of reasonable depth", final=True) from None


def reading_of(state: Mapping[str, Any]) -> Reading:
    """Return the reading of one state of the page. Raises `SourceError` for another format."""
    pipelines = state.get("pipelines")
    if state.get("format") != FORMAT or not isinstance(pipelines, dict):
        raise SourceError(
            f"a state in format {legible(state.get('format'))}, where this version reads {FORMAT}: the version of "
            "resilient there and here must fit",
            final=True,
        )
    at, pid = number(state.get("at")), number(state.get("pid"))
    found = {legible(name): _pipeline(each) for name, each in pipelines.items()}
    return Reading(at or 0.0, found, pid=None if pid is None else int(pid))


def _pipeline(data: Any) -> PipelineState:
    if not isinstance(data, dict):
        return PipelineState(error="the page sent no state")
    figures = data.get("figures")
    if not isinstance(figures, dict):
        figures = {}
    found = PipelineState(
        mode=legible(data.get("mode", "on")),
        closed=data.get("closed") is True,
        in_flight=_whole(data.get("in_flight")),
        calls=_whole(figures.get("calls")),
        rate=number(figures.get("rate")),
        bad=number(figures.get("bad")),
        p50=number(figures.get("p50")),
        p99=number(figures.get("p99")),
        error=printable(str(data["error"])) if "error" in data else "",
    )
    for node in _nodes(data):
        _add_policy(found, node)
    return found


def _nodes(data: Mapping[str, Any], depth: int = 0) -> Iterator[Mapping[str, Any]]:
    """Yield the policies of a pipeline, and of pipelines in it."""
    policies = data.get("policies")
    for node in policies.values() if isinstance(policies, dict) and depth < DEEPEST else ():
        if isinstance(node, dict):
            yield node
            yield from _nodes(node, depth + 1)


def _add_policy(found: PipelineState, node: Mapping[str, Any]) -> None:
    """Add what one policy says about itself to the state of its pipeline."""
    circuit, states, gates = node.get("circuit"), node.get("states"), node.get("gates")
    if isinstance(circuit, dict):
        _add_circuits(found, {circuit.get("state"): 1})
    if isinstance(states, dict):
        _add_circuits(found, states)
    name = legible(node.get("name", "?"))
    if isinstance(gates, dict):  # of a Keyed: its keys together
        permits = [each for gate in gates.values() if (each := _permits(name, gate)) is not None]
        if permits:
            sums = (sum(each.in_use for each in permits), sum(each.limit for each in permits))
            found.permits.append(Permits(name, *sums, sum(each.queued for each in permits)))
        for gate in gates.values():
            _add_rate_limit(found, name, gate)
    elif (own := _permits(name, node)) is not None:
        found.permits.append(own)
    _add_rate_limit(found, name, node)
    now = node.get("now")
    if not isinstance(now, dict):
        return
    retried, started, budget = _whole(now.get("retried")), _whole(now.get("started")), now.get("budget")
    if retried is not None:
        found.retries = (found.retries or 0) + retried
    if started is not None:
        found.hedges = (found.hedges or 0) + started
    for tokens in _tokens(budget):
        found.tokens = tokens if found.tokens is None else min(tokens, found.tokens)


def _tokens(budget: Any) -> Iterator[float]:
    """Yield the tokens of a budget; if it has one for each dependency, of all these."""
    each = budget.get("each") if isinstance(budget, dict) else None
    for one in each.values() if isinstance(each, dict) and each else (budget,):
        tokens = number(one.get("tokens")) if isinstance(one, dict) else None
        if tokens is not None:
            yield tokens


def _permits(name: str, node: Any) -> Permits | None:
    now = node.get("now") if isinstance(node, dict) else None
    if not isinstance(now, dict):
        return None
    in_use = _whole(now.get("in_use", now.get("in_flight")))
    limit = _whole(now.get("max_concurrent", now.get("limit")))
    if in_use is None or limit is None:
        return None
    return Permits(name, in_use, limit, _whole(now.get("queued")) or 0)


def _add_rate_limit(found: PipelineState, name: str, node: Any) -> None:
    now = node.get("now") if isinstance(node, dict) else None
    tokens = number(now.get("tokens")) if isinstance(now, dict) and "burst" in now else None
    if tokens is not None:
        found.rate_limits[name] = min(tokens, found.rate_limits.get(name, tokens))


def _add_circuits(found: PipelineState, states: Mapping[Any, Any]) -> None:
    for state, count in states.items():
        known = _whole(count)
        if known:
            name = legible(state)
            found.circuits[name] = found.circuits.get(name, 0) + known


def _add_rates(before: Reading | None, now: Reading) -> None:
    """Add what a state does not have: extra requests for each second, from the counts of two readings."""
    seconds = 0.0 if before is None else now.at - before.at
    for name, each in now.pipelines.items():
        old = before.pipelines.get(name) if before is not None else None
        if old is not None and seconds > 0:
            each.retry_rate = _rate(old.retries, each.retries, seconds)
            each.hedge_rate = _rate(old.hedges, each.hedges, seconds)


def _keep_rates(before: Reading, now: Reading) -> None:
    for name, each in now.pipelines.items():
        if name in before.pipelines:
            each.retry_rate, each.hedge_rate = before.pipelines[name].retry_rate, before.pipelines[name].hedge_rate


def _rate(old: int | None, new: int | None, seconds: float) -> float | None:
    return None if old is None or new is None else max(0, new - old) / seconds


def _line(data: Mapping[str, Any]) -> Line:
    kind, pipeline, policy, text = (str(data.get(name, "")) for name in ("kind", "pipeline", "policy", "text"))
    return Line(
        at=number(data.get("at")) or 0.0,
        level=legible(data.get("level", "info")),
        kind=legible(kind),
        pipeline=legible(pipeline),
        policy=legible(policy),
        text=printable(text),
        count=_whole(data.get("count")) or 1,
    )


def _whole(value: object) -> int | None:
    found = number(value)
    return None if found is None else int(found)
