"""What type checkers make of the transports: httpx's own types are kept."""

from __future__ import annotations

from typing import assert_type

import httpx

from resilient import Pipeline, Retry, standard
from resilient.faults import Errors, Reset
from resilient.http.httpx import AsyncChaosTransport, AsyncTransport, ChaosTransport, HttpClassifier, Transport

httpx.AsyncClient(transport=AsyncTransport(standard("users")))
httpx.Client(transport=Transport(Pipeline(Retry(), classify=HttpClassifier()), verify=False))
Transport(transport=httpx.HTTPTransport(retries=1))
assert_type(Transport().pipeline, Pipeline)
assert_type(Transport().handle_request(httpx.Request("GET", "http://localhost")), httpx.Response)

AsyncTransport(Retry())  # type: ignore[arg-type]
AsyncTransport(transport=httpx.HTTPTransport())  # type: ignore[arg-type]
httpx.AsyncClient(transport=Transport())  # type: ignore[arg-type]
httpx.Client(transport=AsyncTransport())  # type: ignore[arg-type]

AsyncTransport(transport=AsyncChaosTransport(Errors(share=0.1, status=503), enabled=True, verify=False))
httpx.Client(transport=ChaosTransport(Reset(), transport=httpx.HTTPTransport(), enabled=lambda: True, halt_rate=None))
assert_type(ChaosTransport(Reset()).halted, str | None)
ChaosTransport("reset")  # type: ignore[arg-type]
Transport(transport=AsyncChaosTransport(Reset()))  # type: ignore[arg-type]
AsyncChaosTransport(Reset(), transport=httpx.HTTPTransport())  # type: ignore[arg-type]
