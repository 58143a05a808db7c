"""The parts of a client library that transports need: its streams, its errors, and whether its client reads the body.

A client returns a response as a stream (`client.stream`), or reads the body first (`client.get`). The transport is not
given this choice as an argument. It is an argument of the client's `send`, which is on the call stack while it calls a
transport, so `is_streamed` looks there.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from copy import copy
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR, CO_ITERABLE_COROUTINE
from sys import _getframe
from types import CodeType, FrameType
from typing import Any

from resilient.errors import TimedOut
from resilient.http.classify import HttpClassifier, unsent, untouched
from resilient.http.streams import Streams

__all__ = ["Library"]

SEND = 5
"""The number of frames from `is_streamed` to the client's `send`, without a tracer or other transport in between."""

_SUSPENDED = CO_COROUTINE | CO_GENERATOR | CO_ITERABLE_COROUTINE | CO_ASYNC_GENERATOR


class Library:
    """One client library, httpx or httpx2.

    Args:
        module: the client's module.
        classifier: the class of classifier for pipelines that were given none.
        errors: for each of our errors, a class with the same meaning that is also one of the client's errors.
    """

    def __init__(
        self, module: Any, classifier: type[HttpClassifier], errors: Mapping[type[Exception], type[Exception]]
    ) -> None:
        self.module = module
        self.file: str = module.Client.build_request.__code__.co_filename
        """The path of the client's source file."""
        self._send, self._request, self._stream = (self._codes(name) for name in ("send", "request", "stream"))
        self._loop_code: CodeType | None = None
        self.classifier = classifier
        self.streams = Streams(module, errors[TimedOut])  # type: ignore[arg-type]
        self.proofs = {"unsent": unsent(module), "untouched": untouched(module)}
        self._errors = errors

    def is_streamed(self) -> bool:
        """Whether the user, not the client, reads the body of the response: the argument `stream` of the nearest `send`
        on the call stack. Tracers and other transports, with any names, may be in between.

        Looking at frames is slow, and reading a frame's locals is slower. So the caller of `send` is examined first:
        mostly it is the client's `request`, which reads all bodies. The locals of `send` are read only if the caller is
        neither `request` nor `stream`. A stack without a client ends at the event loop: the code of its frame there is
        remembered, because no client can be above that code.
        """
        try:
            if _getframe(SEND + 1).f_code in self._request:
                return False
            first = _getframe(SEND)
        except ValueError:  # the stack is not that high
            first = _getframe(1)
        code = first.f_code
        if code is self._loop_code:
            return True
        frame: FrameType | None = first
        while frame is not None and frame.f_code not in self._send:
            if frame.f_code.co_name == "send" and frame.f_code.co_filename == self.file:
                break  # a tracer had replaced the method before this library was imported
            frame = frame.f_back
        if frame is None:
            if _getframe(1).f_code.co_flags & CO_COROUTINE and not code.co_flags & _SUSPENDED:
                self._loop_code = code
            return True
        caller = frame.f_back
        if caller is not None:
            if caller.f_code in self._request:
                return False
            if caller.f_code in self._stream:
                return True
        return bool(frame.f_locals["stream"])

    def _codes(self, method: str) -> tuple[CodeType, ...]:
        """Return the code objects of a method of both kinds of client, without those that other libraries replaced."""
        found = (inspect.unwrap(getattr(kind, method)) for kind in (self.module.AsyncClient, self.module.Client))
        codes = (getattr(function, "__code__", None) for function in found)
        return tuple(code for code in codes if code is not None and code.co_filename == self.file)

    def answer(self, given: Any, shared: bool) -> Any:
        """Return a response for one caller, made from the result of a Fallback. Each caller gets its own, because a
        client reads, changes and closes its response.

        Args:
            given: the result of the Fallback.
            shared: whether further callers get the same result.

        Raises `TypeError` if `given` is no response of this library, or a stream that only one caller can read.
        """
        name = f"{self.module.__name__}.Response"
        if not isinstance(given, self.module.Response):
            raise TypeError(f"a Fallback under {self.module.__name__} must answer with a {name}, got {given!r}")
        if type(given.stream) is self.streams.bytes:  # it has not been read yet
            return self.module.Response(
                given.status_code,
                headers=given.headers,
                stream=self.streams.bytes(b"".join(given.stream)),
                extensions={**given.extensions},
                default_encoding=given.default_encoding,
            )
        if hasattr(given, "_content") and given.is_closed:  # its body is in memory, as in a cache
            return copy(given)
        if shared or given.is_closed:
            raise TypeError(
                f"the body of {given!r} is a stream, for one reader: give Fallback(call=...) a function that makes a "
                f"{name} for each caller, or one with content="
            )
        return given

    def claim(self, error: Exception, request: Any) -> None:
        """Make one of our errors an error of the client, too: the same object gets a class that is both."""
        kind = self._errors.get(type(error))
        if kind is not None:
            error.__class__ = kind
            error.request = request  # type: ignore[attr-defined]
