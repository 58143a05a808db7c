"""Health of this process for orchestrators and balancers: liveness and readiness, as a function and as an ASGI app.

    health = HealthEndpoint()                           # GET /livez, GET /readyz
    app.add_route("/livez", health)                     # Starlette, FastAPI
    app.add_route("/readyz", health)
    uvicorn.run(health, port=9000)                      # or a port of its own

**Liveness** says whether a restart would help. It never depends on a dependency, because restarting this process
mends none: `/livez` answers 200 as long as the process answers.

**Readiness** says whether requests should be sent to this process rather than to another one. `/readyz` answers 503
only in these cases:

- *It is draining*: `endpoint.drain()` was called; or a pipeline that is named as required is closed
  (`await pipeline.aclose()`); or there are pipelines with a name, and all are closed.
- *A required dependency is down*: its pipeline is switched on, and has a circuit that has not been closed for `grace`
  seconds (default 30) and that refuses every call at this moment: it is isolated by hand, or its break is not over. Of
  a circuit for each key (`Keyed`, HTTP transports) all keys must be in that state, and there must be at least one. A
  circuit in shadow mode refuses nothing.

When the break of a circuit is over, the process is ready again, although the circuit is not closed yet: only a call can
be the probe that closes it, and a process that gets no requests makes no calls. Otherwise it would never return.

No dependency is required by default, and an open circuit of a dependency that is not named never makes the process
unready. Think before you name one. If all instances share the dependency, its outage makes all of them unready within
the same minute: then no instance answers, not even with a fallback, a cached page or a clear error, and requests that
need no dependency fail too. Name a dependency only if other instances can do without the one that this instance uses: a
sidecar, a local cache, a shard, a connection of its own. `grace` keeps short outages out.

A name that no pipeline has is no reason to be unready, because pipelines may be made at their first call, and a process
that gets no requests makes none. It is shown as "unknown", and logged once as a warning of the logger "resilient".
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, MutableMapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from resilient import _validation
from resilient.pipeline import Pipeline
from resilient.pipeline.names import named
from resilient.policies.breaker import CircuitBreaker
from resilient.policies.keyed import Keyed, table_of
from resilient.runtime import current

__all__ = ["GRACE", "Dependency", "Health", "HealthEndpoint", "health"]

GRACE = 30.0
"""The seconds for which a circuit of a required dependency may be not closed: longer than most deployments and restarts
of a dependency take."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_log = logging.getLogger("resilient")


@dataclass(frozen=True)
class Dependency:
    """A required dependency, by its pipeline.

    Attributes:
        state: "ok"; "down": a circuit refuses all calls, for longer than the grace; "closed": the pipeline is closed;
            "unknown": no pipeline has this name.
        refusing_seconds: seconds since its circuit was last closed, if it refuses all calls now; else None.
    """

    state: Literal["ok", "down", "closed", "unknown"]
    refusing_seconds: float | None = None


@dataclass(frozen=True)
class Health:
    """The health of this process. It is live if it can say so.

    Attributes:
        ready: whether requests should be sent to this process.
        draining: whether it is ending: it does no new work.
        reasons: why it is not ready, in words; empty if it is ready.
        required: the required dependencies, by the names of their pipelines.
    """

    ready: bool
    draining: bool
    reasons: tuple[str, ...]
    required: Mapping[str, Dependency]

    def data(self) -> dict[str, Any]:
        """This health as plain data, for JSON."""
        return {**asdict(self), "reasons": list(self.reasons)}


def health(required: Collection[str | Pipeline] = (), *, grace: float = GRACE, draining: bool = False) -> Health:
    """Return the health of this process, by the rule in the docstring of this module.

    Args:
        required: the pipelines of the dependencies without which this process should get no requests: their names, or
            pipelines that have one. Default: none.
        grace: seconds for which a circuit of theirs may be not closed; 0: none. Default 30.
        draining: whether the process is ending.

    Raises `TypeError` or `ValueError` for bad arguments, and for a pipeline without a name.
    """
    return _health(_names(required), _validation.seconds("grace", grace, zero=True), draining)


class HealthEndpoint:
    """An ASGI application that answers `GET` and `HEAD` of `/livez` and `/readyz`, below any path where it is mounted.

    The answer is 200 or 503, with the health as JSON and `Cache-Control: no-store`. The body has the names of the
    required pipelines, and nothing of other pipelines, of keys or of errors. 404 for other paths, 405 for other
    methods; a websocket is refused; as a server's only application it answers lifespan events, and drains at the end.

    Args:
        required, grace: as for `health`.
        details: whether the answer of `/readyz` has the reasons and the dependencies. False: `{"ready": ...}` only, for
            an address that strangers can reach.
    """

    def __init__(
        self, required: Collection[str | Pipeline] = (), *, grace: float = GRACE, details: bool = True
    ) -> None:
        self.required = _names(required)
        self.grace = _validation.seconds("grace", grace, zero=True)
        self.details = _validation.flag("details", details)
        self.draining = False
        self._unknown: set[str] = set()

    def drain(self) -> None:
        """Be not ready from now on, because the process is ending: call it before the server shuts down."""
        self.draining = True

    def health(self) -> Health:
        """The health of this process now."""
        found = _health(self.required, self.grace, self.draining)
        for name, dependency in found.required.items():
            if dependency.state == "unknown" and name not in self._unknown:
                self._unknown.add(name)
                known = named()
                _log.warning(
                    "resilient: health: no pipeline is called %r (yet), so it is not watched; there are: %s%s",
                    name,
                    ", ".join(map(repr, known)) or "none",
                    _validation.meant(name, known),
                )
        return found

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            await self._answer(scope, send)
        elif kind == "websocket":
            await receive()  # the request to connect
            await send({"type": "websocket.close", "code": 1000, "reason": ""})
        elif kind == "lifespan":
            await self._live(receive, send)
        else:
            raise ValueError(f"HealthEndpoint answers http, websocket and lifespan, got a scope of type {kind!r}")

    async def _answer(self, scope: MutableMapping[str, Any], send: Send) -> None:
        asked, method, headers = scope["path"].rstrip("/").rpartition("/")[2], scope["method"], []
        body: dict[str, Any]
        if asked not in ("livez", "readyz"):
            status, body = 404, {"error": "not found: ask for /livez or /readyz"}
        elif method not in ("GET", "HEAD"):
            status, body = 405, {"error": "use GET or HEAD"}
            headers.append((b"allow", b"GET, HEAD"))
        elif asked == "livez":
            status, body = 200, {"live": True}
        else:
            found = self.health()
            status, body = (200 if found.ready else 503), found.data() if self.details else {"ready": found.ready}
        content = json.dumps(body).encode()
        headers += [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
            (b"cache-control", b"no-store"),
            (b"x-content-type-options", b"nosniff"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else content})

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                self.drain()
                await send({"type": "lifespan.shutdown.complete"})
                return


def _names(required: Collection[str | Pipeline]) -> tuple[str, ...]:
    if isinstance(required, str | Pipeline) or not isinstance(required, Collection):
        hint = f": write [{required!r}]" if isinstance(required, str) else ": write it in a list"
        raise TypeError(f"required must be a list of pipelines or of their names, got {required!r}{hint}")
    names = []
    for each in required:
        if isinstance(each, Pipeline) and not each.name:
            raise ValueError(f"a required pipeline must have a name, got {each!r}: write Pipeline(..., name=...)")
        names.append(
            _validation.name("the name of a required pipeline", each.name if isinstance(each, Pipeline) else each)
        )
    return tuple(dict.fromkeys(names))


def _health(required: tuple[str, ...], grace: float, draining: bool) -> Health:
    known = named()
    closing = bool(known) and all(each._in_flight.closed for each in known.values())
    found = {name: _dependency(known.get(name), grace) for name in required}
    reasons = ["the process is draining"] if draining else []
    if closing and not draining:
        reasons.append("all pipelines are closed")
    for name, each in found.items():
        if each.state == "closed" and not closing:
            reasons.append(f"{_validation.legible(name)} is closed")
        elif each.state == "down":
            reasons.append(
                f"{_validation.legible(name)}: its circuit, not closed for {each.refusing_seconds:.0f} s, "
                "refuses all calls"
            )
    draining = draining or closing or any(each.state == "closed" for each in found.values())
    return Health(not reasons, draining, tuple(reasons), found)


def _dependency(pipeline: Pipeline | None, grace: float) -> Dependency:
    if pipeline is None:
        return Dependency("unknown")
    if pipeline._in_flight.closed:
        return Dependency("closed")
    seconds = max(_refusing(pipeline), default=None)
    return Dependency("ok" if seconds is None or seconds < grace else "down", seconds)


def _refusing(pipeline: Pipeline) -> Iterator[float]:
    """Yield, for each circuit of a pipeline that refuses all calls now, the seconds since it was last closed."""
    if pipeline.mode == "off":
        return
    now = current().now()
    for policy in pipeline.policies:
        if isinstance(policy, Pipeline):
            yield from _refusing(policy)
            continue
        gates = [entry.gate for entry in table_of(policy).entries()] if isinstance(policy, Keyed) else [policy]
        circuits = [each for each in gates if isinstance(each, CircuitBreaker) and not each.shadow]
        times = [each._circuit.refusing_since(now) for each in circuits]
        if times and None not in times:
            yield min(each for each in times if each is not None)
