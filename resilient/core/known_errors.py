"""What the errors of well-known clients mean: which of them say "not like that" rather than "not now".

requests, aiohttp, botocore, grpc and the drivers of databases raise for answers such as 404 and a unique violation just
as for an outage. Those are the caller's business: they are neither repeated nor evidence against the dependency. None
of these libraries is imported. An error is read by its public attributes:

    response.status_code, status_code, status     an HTTP status: httpx, requests, aiohttp, urllib, the SDKs of models
    response["Error"]["Code"]                     botocore
    sqlstate, pgcode                              the drivers of PostgreSQL, and others that keep to SQL's states
    code()                                        grpc
    the name of its class                         where there is nothing else: redis, requests' InvalidURL, ...

Attributes come from anywhere, so none is believed: what is not of the right type, or raises, says nothing.
"""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from resilient.core.pushback import pause
from resilient.core.verdict import FAILURE, FATAL, IGNORED, WAITED, Verdict

__all__ = ["GRPC", "ILL_REDIS", "PUSHBACK", "Reader", "is_bare", "is_untrusted", "pushback_ms", "read_of", "reader_of"]

Reader = Callable[[Any, Collection[int]], Verdict | None]
"""Reads an error; the collection has the HTTP statuses that are failures worth repeating. None: nothing is known."""

ATTRIBUTES = frozenset({"response", "status_code", "status", "sqlstate", "pgcode"})

# -- by name --------------------------------------------------------------------------------------------------------

_DATABASES = ("psycopg", "psycopg2", "sqlite3", "pymysql", "MySQLdb", "mysql", "oracledb", "sqlalchemy")
_MISTAKES = {
    "aiohttp": "InvalidURL NonHttpUrlClientError TooManyRedirects ServerFingerprintMismatch",
    "asyncpg": "InterfaceError",
    "botocore": "BotoCoreError",
    "httpx": "InvalidURL UnsupportedProtocol StreamError TooManyRedirects CookieConflict",
    "httpx2": "InvalidURL UnsupportedProtocol StreamError TooManyRedirects CookieConflict",
    "redis": "ResponseError DataError PubSubError LockNotOwnedError AuthenticationError AuthorizationError "
    "InvalidPipelineStack CrossSlotTransactionError",
    "requests": "URLRequired MissingSchema InvalidSchema InvalidURL InvalidHeader InvalidJSONError TooManyRedirects "
    "StreamConsumedError UnrewindableBodyError",
    **dict.fromkeys(_DATABASES, "IntegrityError DataError ProgrammingError NotSupportedError"),
}
"""Errors of the caller: neither repeated nor evidence."""

_FAILURES = {
    "botocore": "HTTPClientError ConnectionError ResponseStreamingError IncompleteReadError ChecksumError "
    "TokenRetrievalError CredentialRetrievalError MetadataRetrievalError CapacityNotAvailableError",
    "redis": "ReadOnlyError OutOfMemoryError AskError TryAgainError ClusterDownError ExternalAuthProviderError",
    "requests": "JSONDecodeError",
}
"""Failures worth repeating, although a class above them is one of a caller's mistakes."""

_WAITS = {
    "httpcore": "PoolTimeout",
    "httpx": "PoolTimeout",
    "httpx2": "PoolTimeout",
    "psycopg_pool": "PoolTimeout TooManyRequests",
    "redis": "WatchError MaxConnectionsError",
    "sqlalchemy": "TimeoutError",
}
"""No evidence, but worth repeating: a wait for a connection of our own pool, or another transaction was quicker."""

_NAMES: dict[tuple[str, str], Verdict] = {
    (library, name): verdict
    for names, verdict in ((_MISTAKES, IGNORED), (_FAILURES, FAILURE), (_WAITS, WAITED))
    for library, listed in names.items()
    for name in listed.split()
}

# -- by what they say -----------------------------------------------------------------------------------------------

ILL_REDIS = frozenset(
    {"BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "READONLY", "TRYAGAIN", "UNKILLABLE"}
)
"""Redis itself cannot do it now; other replies begin with ERR, WRONGTYPE, NOAUTH, NOPERM, ..."""

_WRONG_SQL = re.compile(r"0[ABFLMPZ]|2[0-8BDF]|3[489BDF]|4[24]|P0")
"""Classes of SQLSTATE that are the statement's fault or its rights': data, constraints, syntax, access, ..."""

_READ_ONLY = "25006"  # after a failover: a new connection finds the new primary
_CONTENDED = "40"  # a serialization failure, a deadlock

GRPC = {
    **dict.fromkeys(
        (
            "CANCELLED",
            "INVALID_ARGUMENT",
            "NOT_FOUND",
            "ALREADY_EXISTS",
            "PERMISSION_DENIED",
            "UNAUTHENTICATED",
            "FAILED_PRECONDITION",
            "OUT_OF_RANGE",
            "UNIMPLEMENTED",
        ),
        IGNORED,
    ),
    **dict.fromkeys(("DEADLINE_EXCEEDED", "INTERNAL", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "UNKNOWN"), FAILURE),
    "ABORTED": WAITED,
    "DATA_LOSS": FATAL,
}

PUSHBACK = "grpc-retry-pushback-ms"
"""The field of a grpc answer's trailing metadata that says when to come back."""

_AWS_THROTTLES = frozenset(
    {
        "BandwidthLimitExceeded",
        "EC2ThrottledException",
        "LimitExceededException",
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "RequestTimeout",
        "RequestTimeoutException",
        "SlowDown",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
"""Codes that botocore's own retry modes repeat, and that come with 400."""
_AWS_CONTENDED = frozenset({"TransactionInProgressException", "TransactionConflictException"})


def reader_of(kind: type[BaseException]) -> Reader | None:
    """How errors of this type are read; None: they are read only if the error itself has one of `ATTRIBUTES`."""
    libraries = {str(each.__module__).partition(".")[0] for each in kind.__mro__}
    named = (_NAMES.get((str(each.__module__).partition(".")[0], each.__name__)) for each in kind.__mro__)
    by_name = next((verdict for verdict in named if verdict is not None), None)
    if "grpc" in libraries:
        return _read_grpc
    if "redis" in libraries:
        return lambda error, statuses: _read_redis(error, by_name)
    if by_name is not None:
        return lambda error, statuses: read(error, statuses) or by_name
    has = {name for each in kind.__mro__ for name in vars(each)}
    return read if has & ATTRIBUTES or "__getattr__" in has else None


def read_of(reader: Reader | None, error: Exception, statuses: Collection[int]) -> Verdict | None:
    """What is known of an error, by the reader of its type."""
    if reader is not None:
        return reader(error, statuses)
    try:
        own = vars(error)
        return _read(error, statuses) if own and not ATTRIBUTES.isdisjoint(own) else None
    except Exception:
        return None


def read(error: Any, statuses: Collection[int]) -> Verdict | None:
    """What the attributes of an error say; None: nothing."""
    try:
        return _read(error, statuses)
    except Exception:
        return None


def _read(error: Any, statuses: Collection[int]) -> Verdict | None:
    for name in ("sqlstate", "pgcode"):
        state = getattr(error, name, None)
        if isinstance(state, str) and len(state) == 5 and state.isascii() and state.isalnum():
            return _of_sqlstate(state)
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):
        return _of_aws(response, statuses)
    if response is not None:
        for name in ("status_code", "status"):
            verdict = _of_status(getattr(response, name, None), getattr(response, "headers", None), statuses)
            if verdict is not None:
                return verdict
    for name in ("status_code", "status"):
        verdict = _of_status(getattr(error, name, None), getattr(error, "headers", None), statuses)
        if verdict is not None:
            return verdict
    return None


def _of_sqlstate(state: str) -> Verdict:
    state = state.upper()
    if state.startswith(_CONTENDED):
        return WAITED
    return IGNORED if _WRONG_SQL.match(state) and state != _READ_ONLY else FAILURE


def _of_status(status: object, fields: object, statuses: Collection[int]) -> Verdict | None:
    if not isinstance(status, int) or isinstance(status, bool) or not 400 <= status <= 599:
        return None
    if status not in statuses:
        return IGNORED if status < 500 else FAILURE
    asked = pause(_lower(fields), status, time.time())
    return FAILURE if asked is None else Verdict("failure", retryable=True, retry_after=asked)


_MOST_FIELDS = 200


def _lower(fields: object) -> dict[str, str]:
    """Header fields under names in lower case."""
    try:
        given = list(fields.items())[:_MOST_FIELDS]  # type: ignore[attr-defined]
        return {name.lower(): value for name, value in given if isinstance(name, str) and isinstance(value, str)}
    except Exception:  # there are none
        return {}


def _of_aws(response: Mapping[str, Any], statuses: Collection[int]) -> Verdict | None:
    about, answer = response.get("Error"), response.get("ResponseMetadata")
    code = about.get("Code") if isinstance(about, Mapping) else None
    status, fields = None, None
    if isinstance(answer, Mapping):
        status, fields = answer.get("HTTPStatusCode"), answer.get("HTTPHeaders")
    if isinstance(code, str) and code in _AWS_CONTENDED:
        return WAITED
    if isinstance(code, str) and code in _AWS_THROTTLES:
        status = 429
    return _of_status(status, fields, {*statuses, 429})


def _read_redis(error: Any, by_name: Verdict | None) -> Verdict | None:
    if by_name is IGNORED:
        try:
            if str(error.args[0]).partition(" ")[0] in ILL_REDIS:
                return FAILURE
        except Exception:
            pass  # it says nothing
    return by_name


def _read_grpc(error: Any, statuses: Collection[int]) -> Verdict | None:
    try:
        verdict = GRPC.get(error.code().name)
        asked = pushback_ms(error) if verdict is FAILURE else None
    except Exception:
        return None
    if asked is None:
        return verdict
    return FATAL if asked < 0 else Verdict("failure", retryable=True, retry_after=asked / 1000)


def pushback_ms(error: Any) -> int | None:
    """Milliseconds that a grpc server asks to be left alone; below 0, not to be asked again (gRFC A6)."""
    for name, value in error.trailing_metadata() or ():
        if name == PUSHBACK:
            return int(value)
    return None


def is_bare(error: BaseException) -> bool:
    """Whether there is nothing to read in an error but its message, as in most: no cause, attribute or other error."""
    try:
        return (
            error.__cause__ is None and not error.__dict__ and not (error.args and isinstance(error.args[0], Exception))
        )
    except Exception:  # an attribute that raises
        return False


# -- certificates ---------------------------------------------------------------------------------------------------

_LINKS = 20
"""Errors that are looked at behind one."""


def is_untrusted(error: BaseException) -> bool:
    """Whether a certificate is the reason of an error: one that does not verify will not verify a moment later.

    Clients wrap `ssl.SSLCertVerificationError`, as the cause (httpx, aiohttp) or as an argument (requests, botocore).
    A server that does not trust the client's certificate says so in an alert.
    """
    waiting, seen = [error], 0
    while waiting and seen < _LINKS:
        each = waiting.pop()
        seen += 1
        try:
            if _is_about_a_certificate(each):
                return True
            waiting += [every for every in _behind(each) if isinstance(every, BaseException)]
        except Exception:
            pass  # an attribute that raises says nothing
    return False


def _is_about_a_certificate(error: BaseException) -> bool:
    if isinstance(error, ssl.SSLCertVerificationError):
        return True
    reason = getattr(error, "reason", None) if isinstance(error, ssl.SSLError) else None
    return isinstance(reason, str) and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason)


def _behind(error: BaseException) -> list[object]:
    """What clients have as the reason of an error: its cause, its first argument, or an attribute."""
    found = vars(error)
    inside = found.get("kwargs")
    return [
        error.__cause__,
        *error.args[:1],
        found.get("reason"),
        inside.get("error") if isinstance(inside, dict) else None,
    ]
