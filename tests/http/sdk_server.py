"""A server with the parts of OpenAI's and Anthropic's HTTP interfaces that their SDKs need for one question: responses
as JSON and as server-sent events. A script comes first, and can break a connection off.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import threading
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["WORDS", "Cut", "Refusal", "SdkServer", "Seen"]

WORDS = ["Once ", "upon ", "a ", "time"]
"""What it answers to every question."""


@dataclass(frozen=True)
class Refusal:
    """A step of a script: an error status."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cut:
    """A step of a script: the connection ends after so many words (0: before the head of the response)."""

    words: int
    how: Literal["reset", "close"] = "reset"


@dataclass(frozen=True)
class Seen:
    """One request, as it arrived."""

    path: str
    headers: Mapping[str, str]
    body: Any


class _Protocol(H11Protocol):
    """A protocol that knows the transport of each connection."""

    open: dict[Any, Any]

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.open[transport.get_extra_info("peername")] = transport


class SdkServer:
    """A context: the server runs inside.

    Attributes:
        script: the next steps; after the last the responses are successful.
        seen: the requests.
        held: whether streams stop after their first word until `go_on()`.
    """

    def __init__(self) -> None:
        # The protocol is named, because asyncio sets TCP_NODELAY only then.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen()
        self.origin = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.script: deque[Refusal | Cut] = deque()
        self.seen: list[Seen] = []
        self.held = False
        self._going_on = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connections: dict[Any, Any] = {}
        routes = [
            Route("/v1/chat/completions", self._openai, methods=["POST"]),
            Route("/v1/models", self._models),
            Route("/v1/messages", self._anthropic, methods=["POST"]),
        ]
        protocol = type("Protocol", (_Protocol,), {"open": self._connections})
        self._server = uvicorn.Server(
            uvicorn.Config(
                Starlette(routes=routes),
                http=protocol,
                loop="asyncio",
                lifespan="off",
                log_config=None,
                log_level="critical",
                access_log=False,
            )
        )
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],))

    def reset(self) -> None:
        """Clear the script and the requests."""
        self.script.clear()
        self.seen.clear()
        self.held = False
        self._going_on = asyncio.Event()

    def go_on(self) -> None:
        """Send the rest of held streams."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._going_on.set)

    # -- both kinds -------------------------------------------------------------------------------------------------

    async def _begin(self, request: Request) -> tuple[Any, Refusal | Cut | None]:
        self._loop = asyncio.get_running_loop()
        raw = await request.body()
        body = json.loads(raw) if raw else None
        self.seen.append(Seen(request.url.path, dict(request.headers), body))
        step = self.script.popleft() if self.script else None
        if isinstance(step, Cut) and step.words == 0:
            self._cut(request, step)
        return body, step

    def _cut(self, request: Request, step: Cut) -> None:
        transport = self._connections[tuple(request.client or ())]
        if step.how == "reset":
            linger = struct.pack("ii", 1, 0)
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        transport.abort()

    def _refused(self, step: Refusal, body: Mapping[str, Any]) -> Response:
        return JSONResponse(body, step.status, dict(step.headers))

    def _events(self, request: Request, step: Cut | None, before: str, words: list[str], after: str) -> Response:
        async def events() -> AsyncIterator[str]:
            if before:
                yield before
            for number, word in enumerate(words):
                if step is not None and number == step.words:
                    await asyncio.sleep(0.05)  # a reset drops the socket's buffer
                    self._cut(request, step)
                    return
                yield word
                if self.held and number == 0:
                    await self._going_on.wait()
            yield after

        return StreamingResponse(events(), media_type="text/event-stream")

    # -- OpenAI -----------------------------------------------------------------------------------------------------

    async def _models(self, request: Request) -> Response:
        _, step = await self._begin(request)
        if isinstance(step, Refusal):
            return self._refused(step, {"error": {"message": "scripted", "type": "server_error"}})
        return JSONResponse(
            {"object": "list", "data": [{"id": "story", "object": "model", "created": 0, "owned_by": "us"}]}
        )

    async def _openai(self, request: Request) -> Response:
        body, step = await self._begin(request)
        if isinstance(step, Refusal):
            return self._refused(step, {"error": {"message": "scripted", "type": "server_error"}})
        common = {"id": "chatcmpl-1", "created": 0, "model": body["model"]}
        if not body.get("stream"):
            message = {"role": "assistant", "content": "".join(WORDS), "refusal": None}
            choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
            usage = {"prompt_tokens": 1, "completion_tokens": len(WORDS), "total_tokens": len(WORDS) + 1}
            return JSONResponse({**common, "object": "chat.completion", "choices": [choice], "usage": usage})
        words = [
            _event(
                {
                    **common,
                    "object": "chat.completion.chunk",
                    "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}],
                }
            )
            for word in WORDS
        ]
        return self._events(request, step, "", words, "data: [DONE]\n\n")

    # -- Anthropic --------------------------------------------------------------------------------------------------

    async def _anthropic(self, request: Request) -> Response:
        body, step = await self._begin(request)
        if isinstance(step, Refusal):
            kind = "rate_limit_error" if step.status == 429 else "api_error"
            return self._refused(step, {"type": "error", "error": {"type": kind, "message": "scripted"}})
        message: dict[str, Any] = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 1, "output_tokens": 1},
        }
        if not body.get("stream"):
            content = [{"type": "text", "text": "".join(WORDS)}]
            return JSONResponse({**message, "content": content, "stop_reason": "end_turn"})
        block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        before = _event({"type": "message_start", "message": message}) + _event(block)
        words = [
            _event({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}})
            for word in WORDS
        ]
        stop = {"stop_reason": "end_turn", "stop_sequence": None}
        after = [
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": stop, "usage": {"output_tokens": len(WORDS)}},
            {"type": "message_stop"},
        ]
        return self._events(request, step, before, words, "".join(_event(each) for each in after))

    # -- start and end ----------------------------------------------------------------------------------------------

    def __enter__(self) -> SdkServer:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()
        with contextlib.suppress(OSError):
            self._socket.close()


def _event(data: Mapping[str, Any]) -> str:
    name = f"event: {data['type']}\n" if "type" in data else ""
    return f"{name}data: {json.dumps(data)}\n\n"
