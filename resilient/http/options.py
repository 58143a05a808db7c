"""Options: the arguments of a transport, and the options of a single request."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, Literal

from resilient import _validation
from resilient.core.call import Call
from resilient.core.call_options import CallOptions
from resilient.core.current_call import enclosing
from resilient.core.headers import is_field_value
from resilient.core.priority import PRIORITIES
from resilient.http import semantics

__all__ = ["By", "RequestOptions", "key_by", "options_of", "variation", "with_key"]

By = Literal["origin", "host"] | Callable[[Any], Hashable]

OPTIONS = frozenset({"off", "idempotent", "idempotency_key", "attempts", "deadline", "key", "priority"})
"""The options of a request in `extensions={"resilient": {...}}`."""


def variation(request: Any, extensions: Any, headers: Mapping[str, str]) -> Any:
    """Return a copy of a request, with other extensions and further headers. The client's own object stays as it is,
    because the client makes redirects from it."""
    varied = object.__new__(type(request))
    varied.__dict__ = {**request.__dict__, "extensions": extensions}
    if headers:
        varied.headers = request.headers.copy()
        for name, value in headers.items():  # (`update` would take three times as long)
            varied.headers[name] = value
    return varied


def with_key(request: Any, name: str, key: str | None) -> Any:
    """Return a request with an idempotency key in the header `name`; without a key, the same request."""
    return request if key is None else variation(request, request.extensions, {name: key})


def options_of(request: Any) -> Mapping[str, Any]:
    """Return the options of a request. Raises `TypeError` or `ValueError` if one is invalid."""
    options = request.extensions.get("resilient")
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise TypeError(f'extensions["resilient"] must be a dict, got {options!r}')
    unknown = sorted(str(key) for key in options if key not in OPTIONS)
    if unknown:
        known = ", ".join(sorted(OPTIONS))
        raise ValueError(f'extensions["resilient"] has no {", ".join(unknown)}: it may have {known}')
    for flag in ("off", "idempotent"):
        if flag in options:
            _validation.flag(flag, options[flag])
    if "attempts" in options:
        _validation.count("attempts", options["attempts"])
    if "deadline" in options:
        _validation.seconds("deadline", options["deadline"])
    if "key" in options:
        _validation.hashable("key", options["key"])
    if "priority" in options and options["priority"] not in PRIORITIES:
        raise ValueError(f"priority must be one of {', '.join(PRIORITIES)}, got {options['priority']!r}")
    if "idempotency_key" not in options:
        return options
    key = options["idempotency_key"]
    if not isinstance(key, str) or not is_field_value(key):  # a secret: not shown
        raise ValueError("idempotency_key must be the value of a header: a string of printable ASCII characters")
    return _bound(request, options)


class _Bound(dict[str, Any]):
    """The options of a request, and its first origin, to which its idempotency key belongs. The client copies them to
    the requests that it makes from this one for redirects and authentication."""

    origin: str


def _bound(request: Any, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return `options`, without the idempotency key if a redirect has led to another origin."""
    here = origin_of(request)
    if not isinstance(options, _Bound):
        options = _Bound(options)
        options.origin = here
        request.extensions = {**request.extensions, "resilient": options}
    if semantics.is_same_server(options.origin, here):
        return options
    return {name: value for name, value in options.items() if name != "idempotency_key"}


class RequestOptions(CallOptions):
    """The options of requests, as the policies of their pipeline read them.

    Args:
        once: whether a request is not repeated if an SDK, or a guarded function around it, repeats it as well.
    """

    has_dependencies = True
    assumes = (
        "the request is safe to repeat: its method is idempotent (GET, HEAD, OPTIONS, TRACE, PUT, DELETE), or it has "
        "an Idempotency-Key; another one (a POST or PATCH without a key) is never hedged, and repeated only when it "
        "provably was not sent",
        "the request does not say how many attempts it may have (`attempts` in its extensions)",
    )

    def __init__(self, *, once: bool) -> None:
        self.leaves_repeating = once

    def dependency(self, call: Call) -> Hashable:
        """The origin that a request is for."""
        request = call.args[0]
        return getattr(request, "_resilient_origin", None) or origin_of(request)  # mostly set by `_origin_key`

    def is_repeated(self, call: Call) -> bool:
        """Whether an SDK, or a guarded function around, repeats a request."""
        if not self.leaves_repeating:
            return False
        calls_around = (outer.repeats for other, outer in enclosing() if other.origin is not call.origin)
        return semantics.is_repeated(call.args[0].headers.items()) or any(calls_around)

    def words(self, call: Call) -> str:
        """The method of a request: "GET request"."""
        return f"{call.args[0].method} request"

    def attempts(self, call: Call) -> int | None:
        """The number of attempts that a request asks for in its extensions; None: it asks for none."""
        options = call.args[0].extensions.get("resilient")
        return options.get("attempts") if options else None

    def attributes(self, call: Call) -> Mapping[str, str | int]:
        """The method of a request, and the address of its server. Not its path, which may have ids or secrets."""
        request = call.args[0]
        method, url = request.method.upper(), request.url
        port = url.port or semantics.DEFAULT_PORTS.get(url.scheme)
        return {
            "http.request.method": method if method in semantics.KNOWN_METHODS else "_OTHER",
            "server.address": url.host,
            **({} if port is None else {"server.port": port}),
        }


def key_by(by: Any) -> Callable[..., Hashable]:
    """Return the function that returns the key of a request, for the argument `by` of a transport."""
    if by == "origin":
        return _origin_key
    if by == "host":
        return _host_key
    if isinstance(by, str):
        raise ValueError(f'by must be "origin", "host" or a function of the request, got {by!r}')
    of: Callable[[Any], Hashable] = _validation.callback("by", by)

    def key(request: Any) -> Hashable:
        options = request.extensions.get("resilient")
        if options and "key" in options:
            return options["key"]  # type: ignore[no-any-return]
        return of(request)

    return key


def _origin_key(request: Any) -> Hashable:
    """Return the key of a request by its origin, in one Python frame, because most requests need the key. The origin is
    kept with the request, for its budget (see `RequestOptions.dependency`)."""
    options = request.extensions.get("resilient")
    key: Hashable
    if options and "key" in options:
        key = options["key"]
    else:
        parts = request.url._uri_reference  # parsed by the client; its properties take twice as long
        key = request._resilient_origin = semantics.origin(parts.scheme, parts.host, parts.port)
    return key


def _host_key(request: Any) -> Hashable:
    """Return the key of a request by its host."""
    options = request.extensions.get("resilient")
    key: Hashable = request.url.host if not options or "key" not in options else options["key"]
    return key


def origin_of(request: Any) -> str:
    """Return the origin of the server that a request is for."""
    parts = request.url._uri_reference
    return semantics.origin(parts.scheme, parts.host, parts.port)
