"""What type checkers make of the transports and clients: the types of httpx and of httpx2 are kept, and not mixed."""

from __future__ import annotations

from typing import Any, assert_type

import anthropic
import httpx
import httpx2
import openai

from resilient import Classifier, Pipeline, Retry, standard
from resilient.errors import CircuitOpen, Rejected, TimedOut
from resilient.http import httpx as ours
from resilient.http import httpx2 as ours2

# -- httpx ----------------------------------------------------------------------------------------------------------

httpx.AsyncClient(transport=ours.AsyncTransport(standard("users")))
httpx.Client(transport=ours.Transport(Pipeline(Retry(), classify=ours.HttpClassifier()), verify=False))
httpx.Client(mounts={"https://": ours.Transport()})
ours.Transport(transport=httpx.HTTPTransport(retries=1))


async def application(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application."""


ours.AsyncTransport(transport=httpx.ASGITransport(application))
ours.AsyncTransport(transport=httpx.MockTransport(lambda request: httpx.Response(200)))
assert_type(ours.Transport().pipeline, Pipeline)
assert_type(ours.Transport().handle_request(httpx.Request("GET", "http://localhost")), httpx.Response)

ours.AsyncTransport(Retry())  # type: ignore[arg-type]
ours.AsyncTransport(transport=httpx.HTTPTransport())  # type: ignore[arg-type]
httpx.AsyncClient(transport=ours.Transport())  # type: ignore[arg-type]
httpx.Client(transport=ours.AsyncTransport())  # type: ignore[arg-type]

# -- httpx2 ---------------------------------------------------------------------------------------------------------

httpx2.AsyncClient(transport=ours2.AsyncTransport(standard("users")))
httpx2.Client(transport=ours2.Transport(Pipeline(Retry(), classify=ours2.HttpClassifier()), verify=False))
httpx2.Client(mounts={"https://": ours2.Transport()})
ours2.Transport(transport=httpx2.HTTPTransport(retries=1))
ours2.AsyncTransport(transport=httpx2.MockTransport(lambda request: httpx2.Response(200)))
assert_type(ours2.Transport().pipeline, Pipeline)
assert_type(ours2.Transport().handle_request(httpx2.Request("GET", "http://localhost")), httpx2.Response)

ours2.AsyncTransport(Retry())  # type: ignore[arg-type]
ours2.AsyncTransport(transport=httpx2.HTTPTransport())  # type: ignore[arg-type]
httpx2.AsyncClient(transport=ours2.Transport())  # type: ignore[arg-type]
httpx2.Client(transport=ours2.AsyncTransport())  # type: ignore[arg-type]

# -- one library's for the other's ----------------------------------------------------------------------------------

httpx.Client(transport=ours2.Transport())  # type: ignore[arg-type]
httpx2.AsyncClient(transport=ours.AsyncTransport())  # type: ignore[arg-type]
ours.Transport(transport=httpx2.HTTPTransport())  # type: ignore[arg-type]
ours2.Transport(transport=httpx.HTTPTransport())  # type: ignore[arg-type]

# -- options --------------------------------------------------------------------------------------------------------


def tenant(request: httpx.Request) -> str:
    """Return the key of a request."""
    return request.headers["X-Tenant"]


ours.Transport(by=tenant, max_keys=5, idle=60, idempotency_key="X-Key", buffer=0, body_timeout=5, nested="multiply")
ours2.AsyncTransport(by="host", idempotency_key=True, deadline_header="X-Left", attempt_header=True, http2=True)

ours.Transport(by="path")  # type: ignore[arg-type]
ours.Transport(nested="twice")  # type: ignore[arg-type]
ours.Transport(max_keys="many")  # type: ignore[arg-type]
ours2.Transport(idempotency_key=None)  # type: ignore[arg-type]
ours2.AsyncTransport(body_timeout="5")  # type: ignore[arg-type]

# -- our clients ----------------------------------------------------------------------------------------------------


async def with_clients() -> None:
    """The clients are those of the HTTP libraries themselves."""
    async with ours.AsyncClient(standard("users"), base_url="http://localhost") as client:
        plain: httpx.AsyncClient = client
        assert_type(await plain.get("/"), httpx.Response)
    async with ours2.AsyncClient(timeout=None, http2=True) as client2:
        plain2: httpx2.AsyncClient = client2
        assert_type(await plain2.get("/"), httpx2.Response)
        openai.AsyncOpenAI(http_client=client2)
        anthropic.AsyncAnthropic(http_client=client2)
    with ours2.Client() as client3:
        openai.OpenAI(http_client=client3)
        anthropic.Anthropic(http_client=client3)


ours.AsyncClient(Retry())  # type: ignore[arg-type]
ours2.Client("standard")  # type: ignore[arg-type]

# -- errors and judgement -------------------------------------------------------------------------------------------

refused: httpx.ConnectError = ours.CircuitOpen("open")
ours_too: CircuitOpen = ours.CircuitOpen("open")
rejected: Rejected = ours2.BulkheadFull("full")
waited: httpx2.PoolTimeout = ours2.BulkheadFull("full")
late: httpx2.TimeoutException = ours2.TimedOut("late")
late_too: TimedOut = ours2.TimedOut("late")
assert_type(ours.TimedOut("late").seconds, float | None)
assert_type(ours.CircuitOpen("open").retry_after, float | None)
judge: Classifier = ours.HttpClassifier(statuses={500, 503})

wrong: httpx2.ConnectError = ours.CircuitOpen("open")  # type: ignore[assignment]
ours.HttpClassifier(statuses=500)  # type: ignore[arg-type]
