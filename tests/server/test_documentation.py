"""Every example of docs/server.md runs as it is written, and every option has a row in its table."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import anyio
import httpx
import pytest

from resilient import Pipeline, Retry, Timeout, deadline, remaining
from resilient.http.httpx import Transport
from resilient.runtime import virtual
from resilient.server.asgi import HEALTH_CHECKS, ServerMiddleware
from tests.server.memory import RUN, answering, ask
from tests.servers import Valkey, valkey

__all__ = ["valkey"]  # a fixture

DOCUMENT = (Path(__file__).parents[2] / "docs" / "server.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE)


def run(source: str) -> dict[str, Any]:
    """Run an example. Returns the names that it defines."""
    names: dict[str, Any] = {"__name__": __name__}
    exec(compile(source, "docs/server.md", "exec", dont_inherit=True), names)
    return names


def example(about: str) -> tuple[str, dict[str, Any]]:
    """Return the names that the example containing `text` defines."""
    (source,) = [each for each in EXAMPLES if about in each]
    return source, run(source)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example_runs(number: int) -> None:
    """Each example runs alone, and its assertions hold."""
    assert run(EXAMPLES[number])


def test_examples_are_there() -> None:
    """The tests find the examples that they need by their text."""
    assert len(EXAMPLES) == 12


@pytest.mark.parametrize("framework", ["Starlette()\n", "FastAPI()", "Litestar(", "anything"])
def test_setup_guards(framework: str) -> None:
    """In each framework, a request whose body does not arrive is ended, and the headers of a client are ignored."""
    app = next(run(each) for each in EXAMPLES if framework in each)["app"]

    async def main() -> None:
        headers = [("Content-Length", "7")]
        assert (await ask(app, headers=headers, body=[1000.0])).status == 408
        assert (await ask(app, deadline="0")).status != 504

    virtual.run(main())


async def test_setup_between_services_trusts_clients() -> None:
    """A request that has expired is refused."""
    _, names = example("deadline_header=True, priority=True")
    assert (await ask(names["app"], deadline="0")).status == 504
    assert (await ask(names["app"], deadline="60000")).status == 404


async def test_function_of_the_example_sets_priorities() -> None:
    """The example's function gives each path its priority."""
    _, names = example("def urgency")
    found = [names["urgency"]({"path": path}) for path in ("/checkout/7", "/reports", "/")]
    assert found == ["critical", "sheddable", None]
    assert (await ask(names["app"], "/checkout")).status == 404


@pytest.mark.parametrize(
    ("backend", "about"),
    [("asyncio", "import asyncio\n\nfrom resilient import Retry, detached"), ("trio", "import trio")],
)
def test_shielded_steps_are_not_cut_in_half(backend: str, about: str) -> None:
    """A deadline that passes within the shielded steps does not cancel them."""
    _, names = example(about)

    async def main() -> None:
        app = ServerMiddleware(answering(lambda: names["pay"]("a book")), deadline_header=True)
        assert (await ask(app, deadline="500")).status == 504
        await anyio.sleep(5)

    RUN[backend](main)
    assert names["charged"] == names["recorded"] == ["a book"]


def test_every_option_has_its_row_and_its_default() -> None:
    """The table has no other rows."""
    options = list(inspect.signature(ServerMiddleware).parameters.values())[1:]
    rows = dict(re.findall(r"^\| `(\w+)` \| `(.*?)` \|", DOCUMENT, re.MULTILINE))
    defaults = {each.name: each.default for each in options}
    assert defaults.pop("exempt") is HEALTH_CHECKS
    assert rows.pop("exempt") == "HEALTH_CHECKS"
    assert rows == {
        name: str(value).join('""' if isinstance(value, str) else ("", "")) for name, value in defaults.items()
    }
    assert all(f"`{path}`" in DOCUMENT for path in HEALTH_CHECKS)


# -- WSGI -----------------------------------------------------------------------------------------------------------


class _Quiet(WSGIRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


class _Served:
    """A context: a WSGI application, under the middleware of the example, on its own port."""

    def __init__(self, app: Any, **options: Any) -> None:
        _, names = example("class Deadlines")
        self._server = make_server("127.0.0.1", 0, names["Deadlines"](app, **options), handler_class=_Quiet)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.origin = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> _Served:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _wsgi(handle: Callable[[], str]) -> Any:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        text = handle()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [text.encode()]

    return app


def test_wsgi_middleware_sets_the_deadline() -> None:
    """On a real server, the deadline comes from the header that our transports send, within the server's own limit."""
    with _Served(_wsgi(lambda: str(remaining())), most=30) as served:

        def ask_under(*policies: Any, **headers: str) -> float:
            transport = Transport(Pipeline(*policies), deadline_header=True)
            with httpx.Client(transport=transport) as client:
                return float(client.get(served.origin, headers=headers).text)

        assert 10 < ask_under(Timeout(20), Retry()) <= 20
        assert 20 < ask_under(Timeout(100), Retry()) <= 30
        assert 20 < ask_under(Retry()) <= 30
        with deadline(10):
            assert 0 < ask_under(Retry()) <= 10


def test_wsgi_middleware_refuses_what_has_expired_and_ends_guarded_calls() -> None:
    """The answer is 504 in both cases."""
    called: list[str] = []

    @Retry()
    def fetch() -> None:
        called.append("fetched")

    def handle() -> str:
        called.append("handled")
        time.sleep(0.15)
        fetch()
        return "never"

    with _Served(_wsgi(handle)) as served, httpx.Client(base_url=served.origin) as client:
        late = client.get("/", headers={"X-Deadline-Ms": "0"})
        assert (late.status_code, called) == (504, [])
        late = client.get("/", headers={"X-Deadline-Ms": "100"})
        assert (late.status_code, late.text) == (504, "The deadline of the request has passed.")
        assert called == ["handled"]


# -- a queue of tasks -----------------------------------------------------------------------------------------------

WORKER = """
import redis

from resilient import remaining

queue = redis.Redis(host="127.0.0.1", port={port})
for _ in range({tasks}):
    print(work(queue, lambda task: (task, remaining())), flush=True)
"""


def test_queue_passes_the_deadline_on(valkey: Valkey) -> None:
    """In another process the time in the queue counts, and an expired task is not done."""
    source, names = example("def work")
    queue = valkey.client()
    put = names["put"]
    put(queue, "whenever")
    with deadline(20):
        put(queue, "soon")
    with deadline(500):
        put(queue, "later")
    with deadline(0.001):
        put(queue, "at once")
        while remaining():
            pass
    program = source + WORKER.format(port=valkey.port, tasks=4)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    (free, soon, later, late) = (eval(line) for line in done.stdout.splitlines())
    assert (free[0], soon[0], later[0], late) == ("whenever", "soon", "later", None)
    assert 0 < soon[1] < 20
    assert 30 < later[1] <= 60
    assert 30 < free[1] <= 60
