"""A client library, as transports need it: its streams, its errors, and what its clients do with a response.

Whether a client hands a response to its user as a stream (`client.stream`), or reads the body itself before it returns
(`client.get`), is known to its `send` alone, which stands on the stack while it calls a transport: `is_streamed` looks
there.
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
from resilient.http import bodies
from resilient.http.judgement import HttpClassifier, unsent, untouched

__all__ = ["Library"]

SEND = 5
"""How far above `is_streamed` the client's `send` stands; farther, where something is in between."""

_SUSPENDED = CO_COROUTINE | CO_GENERATOR | CO_ITERABLE_COROUTINE | CO_ASYNC_GENERATOR


class Library:
    """A client library, as transports need it.

    Args:
        module: the client's.
        classifier: the judgement of pipelines that are given none.
        errors: our errors, each with a class of the same meaning that belongs to the client's hierarchy too.
    """

    def __init__(
        self, module: Any, classifier: type[HttpClassifier], errors: Mapping[type[Exception], type[Exception]]
    ) -> None:
        self.module = module
        self.file: str = module.Client.build_request.__code__.co_filename
        """Where its client's code is."""
        self._send, self._request, self._stream = (self._codes(name) for name in ("send", "request", "stream"))
        self._alone: CodeType | None = None
        self.classifier = classifier
        self.streams = bodies.Streams(module, errors[TimedOut])  # type: ignore[arg-type]
        self.proofs = {"unsent": unsent(module), "untouched": untouched(module)}
        self._errors = errors

    def is_streamed(self) -> bool:
        """Whether the user reads the body of a request's response, rather than the client: the `stream` of the client's
        nearest `send`. Tracers and other transports may stand in between, by any name.

        To look at a frame is dear. So the one above `send` comes first: `request` mostly stands there, and reads all
        bodies. Where no client is in a whole stack, its frame at `SEND` is remembered if it is the event loop's, for a
        client's is above it. The locals of a frame are left alone where it is known who calls `send`.
        """
        try:
            if _getframe(SEND + 1).f_code in self._request:
                return False
            first = _getframe(SEND)
        except ValueError:  # the stack is not that high
            first = _getframe(1)
        code = first.f_code
        if code is self._alone:
            return True
        frame: FrameType | None = first
        while frame is not None and frame.f_code not in self._send:
            if frame.f_code.co_name == "send" and frame.f_code.co_filename == self.file:
                break  # a wrapper took its place before we came
            frame = frame.f_back
        if frame is None:
            if _getframe(1).f_code.co_flags & CO_COROUTINE and not code.co_flags & _SUSPENDED:
                self._alone = code
            return True
        caller = frame.f_back
        if caller is not None:
            if caller.f_code in self._request:
                return False
            if caller.f_code in self._stream:
                return True
        return bool(frame.f_locals["stream"])

    def _codes(self, method: str) -> tuple[CodeType, ...]:
        """The code of a method of both clients, where it is the client's own."""
        found = (inspect.unwrap(getattr(kind, method)) for kind in (self.module.AsyncClient, self.module.Client))
        codes = (getattr(function, "__code__", None) for function in found)
        return tuple(code for code in codes if code is not None and code.co_filename == self.file)

    def answer(self, given: Any, shared: bool) -> Any:
        """What a Fallback answers: a response for each caller, because a client writes to those that it gets, reads
        them and closes them.

        Raises `TypeError` for what is no response of the client's, and where several would read one stream.
        """
        name = f"{self.module.__name__}.Response"
        if not isinstance(given, self.module.Response):
            raise TypeError(f"a Fallback under {self.module.__name__} must answer with a {name}, got {given!r}")
        if type(given.stream) is self.streams.bytes:  # nobody has had it
            return self.module.Response(
                given.status_code,
                headers=given.headers,
                stream=self.streams.bytes(b"".join(given.stream)),
                extensions={**given.extensions},
                default_encoding=given.default_encoding,
            )
        if hasattr(given, "_content") and given.is_closed:  # as a cache has it
            return copy(given)
        if shared or given.is_closed:
            raise TypeError(
                f"the body of {given!r} is a stream, for one reader: give Fallback(call=...) a function that makes a "
                f"{name} for each caller, or one with content="
            )
        return given

    def claim(self, error: Exception, request: Any) -> None:
        """Make one of our errors one of the client's, too: the same object, with all it has."""
        kind = self._errors.get(type(error))
        if kind is not None:
            error.__class__ = kind
            error.request = request  # type: ignore[attr-defined]
