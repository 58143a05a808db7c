"""The service of a world, as data: its servers, queues and workers, and the network in front of it.

`resilient.lab.service` says how it handles requests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from resilient import _validation, faults
from resilient.core.policy import Policy
from resilient.lab.admission import admission_from
from resilient.lab.distributions import Constant, Distribution
from resilient.server.asgi import ServerMiddleware

__all__ = ["FAULTS", "Balance", "Link", "Quota", "ServicePlan", "shard"]

Balance = Literal["random", "round_robin", "least_busy", "key"]
Discipline = Literal["fifo", "lifo"]
Abandoned = Literal["executed", "cancelled"]


@dataclass(frozen=True, slots=True)
class Link:
    """The network. Each way takes `latency` seconds, and this share of the requests or answers is lost."""

    latency: Distribution | None = None
    loss: float = 0.0

    def __post_init__(self) -> None:
        _validation.share("loss", self.loss, zero=True)


@dataclass(frozen=True, slots=True)
class Quota:
    """A rate limit of the service: at most `rate` requests a second, and `burst` at once. Other requests are answered
    with 429."""

    rate: float
    burst: float = 1.0

    def __post_init__(self) -> None:
        if not _validation.amount("rate", self.rate):
            raise ValueError(f"rate must be a finite number > 0, got {self.rate!r}")
        if _validation.amount("burst", self.burst) < 1:
            raise ValueError(f"burst must be a finite number >= 1, got {self.burst!r}")


FAULTS = (
    faults.Crash,
    faults.Errors,
    faults.Latency,
    faults.PacketLoss,
    faults.Partition,
    faults.Reset,
    faults.Slowness,
    faults.Stall,
)
"""The kinds of faults that a world can have."""

MOST_SERVERS = 1_000_000


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """The properties of a service.

    Args:
        service_time: seconds that a worker needs for a request.
        servers: number of servers.
        workers: number of workers of each server; None: enough for all requests.
        balance: the server that a request is sent to: "random", "round_robin", "least_busy" (the one with the fewest
            requests), or "key" (servers are shards, and the key decides).
        queue: "fifo" or "lifo".
        queue_limit: the most requests in the queue of a server; None: unlimited.
        failure_rate: share of all requests that is answered with 503.
        error_time: seconds that a worker needs for a request that it answers with an error; None: as for other
            requests.
        abandoned: what happens to work whose client has given up: "executed" or "cancelled".
        drop_expired: the server respects deadlines that travel with requests, and drops expired requests.
        admission: a policy or a pipeline, a `ServerMiddleware`, or a function that makes one. Each server gets its own.
        rate_limit: of the whole service.
        link: the network between clients and servers.
    """

    service_time: Distribution = field(default_factory=lambda: Constant(0.0))
    servers: int = 1
    workers: int | None = None
    balance: Balance = "random"
    queue: Discipline = "fifo"
    queue_limit: int | None = None
    failure_rate: float = 0.0
    error_time: Distribution | None = None
    abandoned: Abandoned = "executed"
    drop_expired: bool = False
    admission: Policy | ServerMiddleware | Callable[[], Policy] | None = None
    rate_limit: Quota | None = None
    link: Link = field(default_factory=Link)

    def __post_init__(self) -> None:
        if _validation.count("servers", self.servers) > MOST_SERVERS:
            raise ValueError(f"servers must be at most {MOST_SERVERS:,}, got {self.servers!r}")
        if self.workers is not None:
            _validation.count("workers", self.workers)
        if self.queue_limit is not None:
            _validation.count("queue_limit", self.queue_limit, least=0)
        _validation.share("failure_rate", self.failure_rate, zero=True)
        _validation.flag("drop_expired", self.drop_expired)
        for name, kind in (("balance", Balance), ("queue", Discipline), ("abandoned", Abandoned)):
            given, known = getattr(self, name), get_args(kind)
            if given not in known:
                hint = _validation.meant(given, known)
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {given!r}{hint}")
        if self.admission is not None:
            admission_from(self.admission)

    @property
    def admit(self) -> Callable[[], Any]:
        """A function that makes the admission of one server. Raises `TypeError` without one."""
        return admission_from(self.admission)


def shard(key: str, servers: int) -> int:
    """The server (from 0) that has a key, where servers are shards: by the number at the end of the key, else by all
    its letters."""
    digits = key[len(key.rstrip("0123456789")) :]
    return (int(digits) - 1 if digits else sum(key.encode())) % servers
