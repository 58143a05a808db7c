"""An application for gunicorn with several workers, as a user writes it, and the configuration of the server.

`/metrics` shows the figures of all workers. Any other path makes one call, and shows the worker's process id.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, make_wsgi_app, multiprocess

from resilient import Bulkhead, Pipeline
from resilient.observe.prometheus import register

users = Pipeline(Bulkhead(5), name="users")


def post_fork(server: Any, worker: Any) -> None:
    """Of gunicorn's configuration: each worker has figures."""
    register(interval=0.05)


def child_exit(server: Any, worker: Any) -> None:
    """Of gunicorn's configuration: the gauges of a worker that has ended are removed."""
    multiprocess.mark_process_dead(worker.pid)


@users
def work() -> int:
    """Return the process id of the worker."""
    return os.getpid()


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
    """The WSGI application."""
    if environ["PATH_INFO"] == "/metrics":
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)
        return make_wsgi_app(registry)(environ, start_response)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(work()).encode()]
