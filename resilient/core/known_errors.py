"""The meaning of the errors of well-known clients: which of them are answers, and which are failures worth repeating.

requests, aiohttp, botocore, grpc and the drivers of databases raise errors for an outage, but also for answers such as
a 404 or a unique violation. The answers are for the caller: they are not repeated, and are no evidence against the
dependency. None of these libraries is imported. An error is read by its public attributes:

    response.status_code, status_code, status     an HTTP status: httpx, requests, aiohttp, urllib, the SDKs of models
    response["Error"]["Code"]                     botocore
    sqlstate, pgcode                              the drivers of PostgreSQL, and others that keep to SQL's states
    code()                                        grpc
    the name of its class                         where there is nothing else: redis, requests' InvalidURL, ...

Attributes may hold anything: one that is not of the right type, or that raises when it is read, is ignored.
"""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from resilient.core.pushback import pause
from resilient.core.verdict import FAILURE, FATAL, IGNORED, WAITED, Verdict, failure_after

__all__ = [
    "GRPC",
    "ILL_REDIS",
    "PUSHBACK",
    "Reader",
    "has_only_message",
    "is_untrusted",
    "pushback_ms",
    "read_of",
    "reader_of",
]

Reader = Callable[[Any, Collection[int]], Verdict | None]
"""Returns the verdict on an error; None: the error says nothing. The collection has the HTTP statuses that are failures
worth repeating."""

ATTRIBUTES = frozenset({"response", "status_code", "status", "sqlstate", "pgcode"})
"""Names of the attributes that are read of errors of any type."""

# -- by name --------------------------------------------------------------------------------------------------------

_DATABASES = ("psycopg", "psycopg2", "sqlite3", "pymysql", "MySQLdb", "mysql", "oracledb", "sqlalchemy")
_CALLER_ERRORS = {
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
"""Errors of the caller, by library: not repeated, and no evidence."""

_FAILURES = {
    "botocore": "HTTPClientError ConnectionError ResponseStreamingError IncompleteReadError ChecksumError "
    "TokenRetrievalError CredentialRetrievalError MetadataRetrievalError CapacityNotAvailableError",
    "redis": "ReadOnlyError OutOfMemoryError AskError TryAgainError ClusterDownError ExternalAuthProviderError",
    "requests": "JSONDecodeError",
}
"""Failures worth repeating, although a base class is an error of the caller."""

_WAITS = {
    "httpcore": "PoolTimeout",
    "httpx": "PoolTimeout",
    "httpx2": "PoolTimeout",
    "psycopg_pool": "PoolTimeout TooManyRequests",
    "redis": "WatchError MaxConnectionsError",
    "sqlalchemy": "TimeoutError",
}
"""No evidence, but worth repeating: a wait for a connection of the local pool, or another transaction was first."""

_NAMES: dict[tuple[str, str], Verdict] = {
    (library, name): verdict
    for names, verdict in ((_CALLER_ERRORS, IGNORED), (_FAILURES, FAILURE), (_WAITS, WAITED))
    for library, listed in names.items()
    for name in listed.split()
}

# -- by attributes --------------------------------------------------------------------------------------------------

ILL_REDIS = frozenset(
    {"BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "READONLY", "TRYAGAIN", "UNKILLABLE"}
)
"""First words of the replies of a Redis that cannot answer now. Replies to a wrong command begin with ERR, WRONGTYPE,
NOAUTH, NOPERM, ..."""

_WRONG_SQL = re.compile(r"0[ABFLMPZ]|2[0-8BDF]|3[489BDF]|4[24]|P0")
"""Classes of SQLSTATE that are errors of the statement or of its rights: data, constraints, syntax, access, ..."""

_READ_ONLY = "25006"
"""The SQLSTATE of a write to a replica. After a failover, a new connection finds the new primary."""
_CONTENDED = "40"
"""The class of SQLSTATE of serialization failures and deadlocks."""

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
"""The verdicts on the status codes of grpc."""

PUSHBACK = "grpc-retry-pushback-ms"
"""The field of grpc's trailing metadata that has the pause before the next attempt, in milliseconds (gRFC A6)."""

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
"""Codes that botocore's own retry modes repeat, and that come with status 400."""
_AWS_CONTENDED = frozenset({"TransactionInProgressException", "TransactionConflictException"})
"""Codes that mean that another transaction was first."""


def reader_of(kind: type[BaseException]) -> Reader | None:
    """The reader of errors of this type; None: an error of the type is read only if the instance has one of
    `ATTRIBUTES`."""
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
    """The verdict on an error by `reader`, which is `reader_of` its type; None: the error does not decide."""
    if reader is not None:
        return reader(error, statuses)
    try:
        own = vars(error)
        return _read(error, statuses) if own and not ATTRIBUTES.isdisjoint(own) else None
    except Exception:
        return None


def read(error: Any, statuses: Collection[int]) -> Verdict | None:
    """The verdict on an error by its attributes; None: the attributes do not decide."""
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
    for each in (error,) if response is None else (response, error):
        for name in ("status_code", "status"):
            verdict = _of_status(getattr(each, name, None), getattr(each, "headers", None), statuses)
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
    return failure_after(pause(_lower(fields), status, time.time()))


_MOST_FIELDS = 200
"""The most header fields of a response that are read."""


def _lower(fields: object) -> dict[str, str]:
    """Header fields, with their names in lower case."""
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
            pass  # it has no reply to read
    return by_name


def _read_grpc(error: Any, statuses: Collection[int]) -> Verdict | None:
    try:
        verdict = GRPC.get(error.code().name)
        asked = pushback_ms(error) if verdict is FAILURE else None
    except Exception:
        return None
    if asked is None:
        return verdict
    return FATAL if asked < 0 else failure_after(asked / 1000)


def pushback_ms(error: Any) -> int | None:
    """The pause in milliseconds that a grpc server asks for; negative: it asks for no further attempt (gRFC A6). None:
    it asks for nothing."""
    for name, value in error.trailing_metadata() or ():
        if name == PUSHBACK:
            return int(value)
    return None


def has_only_message(error: BaseException) -> bool:
    """Whether an error has nothing but a message, as most have: no cause, no attributes, and no other error as its
    argument."""
    try:
        return (
            error.__cause__ is None and not error.__dict__ and not (error.args and isinstance(error.args[0], Exception))
        )
    except Exception:  # an attribute that raises when it is read
        return False


# -- certificates ---------------------------------------------------------------------------------------------------

_LINKS = 20
"""The most errors that are examined for one: itself, its causes, and the errors in its arguments."""


def is_untrusted(error: BaseException) -> bool:
    """Whether the cause of an error is a certificate. One that does not verify will not verify a moment later.

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
            pass  # an attribute that raises when it is read
    return False


def _is_about_a_certificate(error: BaseException) -> bool:
    if isinstance(error, ssl.SSLCertVerificationError):
        return True
    reason = getattr(error, "reason", None) if isinstance(error, ssl.SSLError) else None
    return isinstance(reason, str) and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason)


def _behind(error: BaseException) -> list[object]:
    """The places where clients put the cause of an error: its `__cause__`, its first argument, or an attribute."""
    found = vars(error)
    inside = found.get("kwargs")
    return [
        error.__cause__,
        *error.args[:1],
        found.get("reason"),
        inside.get("error") if isinstance(inside, dict) else None,
    ]
