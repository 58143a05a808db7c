"""What the errors of well-known clients mean to the default classifier, by the real classes."""

from __future__ import annotations

import asyncio
import io
import json
import ssl
import subprocess
import sys
import urllib.error
from collections.abc import Callable
from email.message import Message
from types import SimpleNamespace
from typing import Any

import aiohttp
import asyncpg
import botocore.exceptions
import grpc
import grpc.aio
import httpx
import httpx2
import psycopg
import pytest
import redis.exceptions
import requests
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from resilient import CircuitBreaker, Classifier, Pipeline, Retry, Verdict
from resilient.core.classify import FAILURE, FATAL, IGNORED, WAITED
from resilient.core.known_errors import is_untrusted
from tests.worlds import World

Made = Callable[[], Exception]


def asks(seconds: float) -> Verdict:
    """The verdict on a failure with a pause of this many seconds."""
    return Verdict("failure", retryable=True, retry_after=seconds)


def of_requests(status: int, **headers: str) -> Exception:
    response = requests.Response()
    response.status_code = status
    response.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    try:
        response.raise_for_status()
    except requests.HTTPError as error:
        return error
    raise AssertionError("no error")


def of_httpx(library: Any, status: int, **headers: str) -> Exception:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = library.Response(status, headers=named, request=library.Request("GET", "http://example.com"))
    try:
        response.raise_for_status()
    except library.HTTPStatusError as error:
        return error  # type: ignore[no-any-return]
    raise AssertionError("no error")


def of_aiohttp(
    status: int, kind: type[aiohttp.ClientResponseError] = aiohttp.ClientResponseError, **headers: str
) -> Exception:
    info: Any = SimpleNamespace(real_url=URL("http://example.com"))
    named = CIMultiDictProxy(CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()}))
    return kind(info, (), status=status, headers=named)


def of_urllib(status: int, **headers: str) -> Exception:
    message = Message()
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    return urllib.error.HTTPError("http://example.com", status, "", message, io.BytesIO())


def of_aws(code: str, status: int, **headers: str) -> Exception:
    named = {name.replace("_", "-").lower(): value for name, value in headers.items()}
    answer = {
        "Error": {"Code": code, "Message": ""},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": named},
    }
    return botocore.exceptions.ClientError(answer, "GetItem")  # type: ignore[arg-type]


def of_grpc(code: grpc.StatusCode, **trailing: str) -> Exception:
    metadata = grpc.aio.Metadata(*((name.replace("_", "-"), value) for name, value in trailing.items()))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), metadata)


SPELT = {"retry_after": "7"}

MEANINGS: dict[str, list[tuple[Made, Verdict]]] = {
    "requests": [
        (lambda: of_requests(404), IGNORED),
        (lambda: of_requests(400), IGNORED),
        (lambda: of_requests(401), IGNORED),
        (lambda: of_requests(409), IGNORED),
        (lambda: of_requests(422), IGNORED),
        (lambda: of_requests(408), FAILURE),
        (lambda: of_requests(425), FAILURE),
        (lambda: of_requests(429, **SPELT), asks(7)),
        (lambda: of_requests(429, retry_after_ms="1500"), asks(1.5)),
        (lambda: of_requests(500), FAILURE),
        (lambda: of_requests(503, **SPELT), asks(7)),
        (lambda: of_requests(503, Retry_After="soon"), FAILURE),
        (requests.ConnectionError, FAILURE),
        (requests.ReadTimeout, FAILURE),
        (requests.ConnectTimeout, FAILURE),
        (requests.exceptions.ProxyError, FAILURE),
        (requests.exceptions.ChunkedEncodingError, FAILURE),
        (lambda: requests.JSONDecodeError("", "", 0), FAILURE),
        (requests.exceptions.InvalidURL, IGNORED),
        (requests.exceptions.MissingSchema, IGNORED),
        (requests.exceptions.InvalidSchema, IGNORED),
        (requests.exceptions.InvalidHeader, IGNORED),
        (requests.exceptions.InvalidProxyURL, IGNORED),
        (requests.exceptions.TooManyRedirects, IGNORED),
        (requests.exceptions.StreamConsumedError, IGNORED),
    ],
    "httpx": [
        *[
            pair
            for library in (httpx, httpx2)
            for pair in (
                (lambda library=library: of_httpx(library, 404), IGNORED),
                (lambda library=library: of_httpx(library, 429, **SPELT), asks(7)),
                (lambda library=library: of_httpx(library, 503), FAILURE),
                (lambda library=library: library.ConnectError(""), FAILURE),
                (lambda library=library: library.ReadTimeout(""), FAILURE),
                (lambda library=library: library.PoolTimeout(""), WAITED),
                (lambda library=library: library.UnsupportedProtocol(""), IGNORED),
                (lambda library=library: library.InvalidURL(""), IGNORED),
                (lambda library=library: library.TooManyRedirects(""), IGNORED),
            )
        ]
    ],
    "aiohttp": [
        (lambda: of_aiohttp(404), IGNORED),
        (lambda: of_aiohttp(403), IGNORED),
        (lambda: of_aiohttp(429, **SPELT), asks(7)),
        (lambda: of_aiohttp(503), FAILURE),
        (lambda: of_aiohttp(200, aiohttp.ContentTypeError), FAILURE),
        (lambda: of_aiohttp(302, aiohttp.TooManyRedirects), IGNORED),
        (lambda: of_aiohttp(407, aiohttp.ClientHttpProxyError), IGNORED),
        (lambda: of_aiohttp(502, aiohttp.ClientHttpProxyError), FAILURE),
        (aiohttp.ServerDisconnectedError, FAILURE),
        (aiohttp.ServerTimeoutError, FAILURE),
        (aiohttp.ClientPayloadError, FAILURE),
        (lambda: aiohttp.InvalidURL("x"), IGNORED),
        (lambda: aiohttp.NonHttpUrlClientError("x"), IGNORED),
    ],
    "urllib": [
        (lambda: of_urllib(404), IGNORED),
        (lambda: of_urllib(503, **SPELT), asks(7)),
        (lambda: urllib.error.URLError("down"), FAILURE),
    ],
    "botocore": [
        (lambda: of_aws("ResourceNotFoundException", 400), IGNORED),
        (lambda: of_aws("AccessDenied", 403), IGNORED),
        (lambda: of_aws("ValidationException", 400), IGNORED),
        (lambda: of_aws("ConditionalCheckFailedException", 400), IGNORED),
        (lambda: of_aws("NoSuchKey", 404), IGNORED),
        (lambda: of_aws("ThrottlingException", 400), FAILURE),
        (lambda: of_aws("ProvisionedThroughputExceededException", 400, **SPELT), asks(7)),
        (lambda: of_aws("RequestTimeout", 400), FAILURE),
        (lambda: of_aws("SlowDown", 503), FAILURE),
        (lambda: of_aws("InternalError", 500), FAILURE),
        (lambda: of_aws("TransactionConflictException", 400), WAITED),
        (lambda: botocore.exceptions.EndpointConnectionError(endpoint_url="x"), FAILURE),
        (lambda: botocore.exceptions.ReadTimeoutError(endpoint_url="x"), FAILURE),
        (lambda: botocore.exceptions.ConnectTimeoutError(endpoint_url="x"), FAILURE),
        (lambda: botocore.exceptions.ParamValidationError(report="x"), IGNORED),
        (botocore.exceptions.NoCredentialsError, IGNORED),
        (botocore.exceptions.NoRegionError, IGNORED),
    ],
    "grpc": [
        *[
            (lambda code=code: of_grpc(code), verdict)  # type: ignore[misc]
            for code, verdict in {
                grpc.StatusCode.INVALID_ARGUMENT: IGNORED,
                grpc.StatusCode.NOT_FOUND: IGNORED,
                grpc.StatusCode.ALREADY_EXISTS: IGNORED,
                grpc.StatusCode.PERMISSION_DENIED: IGNORED,
                grpc.StatusCode.UNAUTHENTICATED: IGNORED,
                grpc.StatusCode.FAILED_PRECONDITION: IGNORED,
                grpc.StatusCode.OUT_OF_RANGE: IGNORED,
                grpc.StatusCode.UNIMPLEMENTED: IGNORED,
                grpc.StatusCode.CANCELLED: IGNORED,
                grpc.StatusCode.ABORTED: WAITED,
                grpc.StatusCode.UNAVAILABLE: FAILURE,
                grpc.StatusCode.DEADLINE_EXCEEDED: FAILURE,
                grpc.StatusCode.RESOURCE_EXHAUSTED: FAILURE,
                grpc.StatusCode.INTERNAL: FAILURE,
                grpc.StatusCode.UNKNOWN: FAILURE,
                grpc.StatusCode.DATA_LOSS: FATAL,
            }.items()
        ],
        (lambda: of_grpc(grpc.StatusCode.UNAVAILABLE, grpc_retry_pushback_ms="2500"), asks(2.5)),
        (lambda: of_grpc(grpc.StatusCode.UNAVAILABLE, grpc_retry_pushback_ms="-1"), FATAL),
        (grpc.RpcError, FAILURE),
    ],
    "asyncpg": [
        (asyncpg.UniqueViolationError, IGNORED),
        (asyncpg.ForeignKeyViolationError, IGNORED),
        (asyncpg.NotNullViolationError, IGNORED),
        (asyncpg.PostgresSyntaxError, IGNORED),
        (asyncpg.UndefinedTableError, IGNORED),
        (asyncpg.InsufficientPrivilegeError, IGNORED),
        (asyncpg.InvalidPasswordError, IGNORED),
        (asyncpg.InvalidCatalogNameError, IGNORED),
        (asyncpg.DataError, IGNORED),
        (asyncpg.RaiseError, IGNORED),
        (lambda: asyncpg.InterfaceError("x"), IGNORED),
        (asyncpg.DeadlockDetectedError, WAITED),
        (asyncpg.SerializationError, WAITED),
        (asyncpg.ReadOnlySQLTransactionError, FAILURE),
        (asyncpg.TooManyConnectionsError, FAILURE),
        (asyncpg.CannotConnectNowError, FAILURE),
        (asyncpg.AdminShutdownError, FAILURE),
        (asyncpg.QueryCanceledError, FAILURE),
        (asyncpg.LockNotAvailableError, FAILURE),
        (asyncpg.ConnectionDoesNotExistError, FAILURE),
    ],
    "psycopg": [
        (psycopg.errors.UniqueViolation, IGNORED),
        (psycopg.errors.CheckViolation, IGNORED),
        (psycopg.errors.SyntaxError, IGNORED),
        (psycopg.errors.UndefinedColumn, IGNORED),
        (psycopg.errors.InsufficientPrivilege, IGNORED),
        (psycopg.errors.NumericValueOutOfRange, IGNORED),
        (psycopg.ProgrammingError, IGNORED),
        (psycopg.DataError, IGNORED),
        (psycopg.NotSupportedError, IGNORED),
        (psycopg.errors.DeadlockDetected, WAITED),
        (psycopg.errors.SerializationFailure, WAITED),
        (psycopg.OperationalError, FAILURE),
        (psycopg.errors.AdminShutdown, FAILURE),
        (psycopg.errors.CannotConnectNow, FAILURE),
        (psycopg.errors.DiskFull, FAILURE),
    ],
    "redis": [
        (lambda: redis.exceptions.ResponseError("WRONGTYPE Operation against a key"), IGNORED),
        (lambda: redis.exceptions.ResponseError("ERR syntax error"), IGNORED),
        (lambda: redis.exceptions.ResponseError("MISCONF Redis is configured to save"), FAILURE),
        (lambda: redis.exceptions.ResponseError("BUSY Redis is busy running a script"), FAILURE),
        (redis.exceptions.ResponseError, IGNORED),
        (redis.exceptions.DataError, IGNORED),
        (redis.exceptions.NoPermissionError, IGNORED),
        (redis.exceptions.AuthenticationError, IGNORED),
        (redis.exceptions.NoScriptError, IGNORED),
        (redis.exceptions.ReadOnlyError, FAILURE),
        (redis.exceptions.BusyLoadingError, FAILURE),
        (redis.exceptions.ConnectionError, FAILURE),
        (redis.exceptions.TimeoutError, FAILURE),
        (lambda: redis.exceptions.ClusterDownError("CLUSTERDOWN x"), FAILURE),
        (redis.exceptions.WatchError, WAITED),
        (redis.exceptions.MaxConnectionsError, WAITED),
    ],
}

CASES = [
    pytest.param(make, verdict, id=f"{library}-{at}")
    for library, each in MEANINGS.items()
    for at, (make, verdict) in enumerate(each)
]


@pytest.mark.parametrize(("make", "verdict"), CASES)
def test_error_of_a_client_means_what_its_answer_says(make: Made, verdict: Verdict) -> None:
    """Answers that blame the caller are not repeated and are no evidence, and the pause that an answer asks for is
    kept."""
    error = make()
    assert Classifier().error(error) == verdict, repr(error)


@pytest.mark.parametrize(("make", "verdict"), CASES)
def test_error_of_a_client_in_a_group_means_the_same(make: Made, verdict: Verdict) -> None:
    """A group, such as a TaskGroup raises, has the verdict on its only member."""
    assert Classifier().error(ExceptionGroup("", [make()])) == verdict


def test_importing_the_classifier_imports_no_client() -> None:
    """Errors of clients are recognised by their attributes and names."""
    clients = ["requests", "aiohttp", "botocore", "grpc", "asyncpg", "psycopg"]  # pybreaker itself imports redis
    code = f"import sys, resilient, json; print(json.dumps([each for each in {clients} if each in sys.modules]))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(told.stdout) == []


def test_not_found_is_neither_repeated_nor_counted(world: World) -> None:
    """A Retry and a circuit with default arguments treat a "not found" as an answer."""
    breaker = CircuitBreaker(min_calls=100)
    dependency = world.dependency(of_requests(404))
    world.outcome(Pipeline(Retry(3, wait=0), breaker)(dependency.fn))
    assert (len(dependency.calls), breaker.snapshot()["failures"]) == (1, 0)


@pytest.mark.parametrize("named", ["failures", "fatal"])
def test_what_the_user_names_goes_before_what_an_error_says(named: str) -> None:
    """The filters of a classifier come before the attributes of an error."""
    options: dict[str, Any] = {named: requests.HTTPError}
    assert Classifier(**options).error(of_requests(404)).kind == "failure"


def test_retry_on_goes_before_what_an_error_says(world: World) -> None:
    """`Retry(on=...)` decides what is repeated; the circuit still learns nothing."""
    dependency = world.dependency(of_requests(404), 7)
    assert world.call(Retry(2, wait=0, on=requests.HTTPError)(dependency.fn)) == 7


@pytest.mark.parametrize(
    ("attributes", "verdict"),
    [
        ({"status_code": 404}, IGNORED),
        ({"status_code": 503}, FAILURE),
        ({"status": 404}, IGNORED),
        ({"status": "404"}, FAILURE),
        ({"status": 200}, FAILURE),
        ({"status": 4040}, FAILURE),
        ({"status": True}, FAILURE),
        ({"sqlstate": "23505"}, IGNORED),
        ({"pgcode": "23505"}, IGNORED),
        ({"sqlstate": "no"}, FAILURE),
        ({"sqlstate": None}, FAILURE),
        ({"response": None}, FAILURE),
        ({"response": {}}, FAILURE),
        ({"response": {"Error": "x", "ResponseMetadata": "y"}}, FAILURE),
        ({"response": SimpleNamespace(status_code=503, headers={"Retry-After": "3"})}, asks(3)),
        ({"response": SimpleNamespace(status_code=503, headers={"Retry-After": b"3", 7: "x"})}, FAILURE),
        ({"response": SimpleNamespace(status_code=503, headers=None)}, FAILURE),
    ],
)
def test_error_of_ones_own_is_read_by_the_same_attributes(attributes: dict[str, Any], verdict: Verdict) -> None:
    """Attributes of the user's own errors are read from the object or its class; those of a wrong type are ignored."""
    own = RuntimeError("x")
    vars(own).update(attributes)
    assert Classifier().error(own) == FAILURE  # Python's own classes have no such attributes
    mine = type("Mine", (Exception,), {})("x")
    vars(mine).update(attributes)
    assert Classifier().error(mine) == verdict
    assert Classifier().error(type("Mine", (Exception,), attributes)("x")) == verdict


# -- certificates ---------------------------------------------------------------------------------------------------


def untrusted() -> ssl.SSLCertVerificationError:
    return ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed")


def alert(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}]")
    error.reason = reason
    return error


def behind(outer: BaseException, *causes: BaseException) -> Exception:
    at = outer
    for cause in causes:
        at.__cause__ = cause
        at = cause
    return outer  # type: ignore[return-value]


def in_requests() -> Exception:
    from urllib3.exceptions import MaxRetryError, SSLError

    reason = SSLError(untrusted())
    pool: Any = SimpleNamespace()
    return requests.exceptions.SSLError(MaxRetryError(pool, "/", reason))


def in_aiohttp() -> Exception:
    key: Any = SimpleNamespace(host="localhost", port=1, ssl=True)
    return aiohttp.ClientConnectorCertificateError(key, untrusted())


UNTRUSTED_ERRORS: dict[str, Made] = {
    "ssl": untrusted,
    "httpx": lambda: behind(httpx.ConnectError(""), OSError(), untrusted()),
    "requests": in_requests,
    "aiohttp": in_aiohttp,
    "botocore": lambda: botocore.exceptions.SSLError(endpoint_url="x", error=untrusted()),
    "urllib": lambda: urllib.error.URLError(untrusted()),  # type: ignore[arg-type]
    "alert": lambda: alert("TLSV13_ALERT_CERTIFICATE_REQUIRED"),
    "unknown ca": lambda: behind(httpx.ReadError(""), alert("TLSV1_ALERT_UNKNOWN_CA")),
    "expired": lambda: alert("SSLV3_ALERT_CERTIFICATE_EXPIRED"),
}


@pytest.mark.parametrize("make", UNTRUSTED_ERRORS.values(), ids=UNTRUSTED_ERRORS)
def test_certificate_that_does_not_verify_is_final_and_no_evidence(world: World, make: Made) -> None:
    """Such an error is not repeated under any client, even if `Retry(on=...)` names it."""
    breaker = CircuitBreaker(min_calls=100)
    dependency = world.dependency(make())
    world.outcome(
        Pipeline(Retry(3, wait=0, on=Exception), breaker, classify=Classifier(failures=Exception))(dependency.fn)
    )
    assert (len(dependency.calls), breaker.snapshot()["failures"]) == (1, 0)


@pytest.mark.parametrize(
    "error",
    [
        alert("UNEXPECTED_EOF_WHILE_READING"),
        alert("WRONG_VERSION_NUMBER"),
        ssl.SSLError("x"),
        behind(httpx.ConnectError(""), ConnectionRefusedError()),
        OSError(OSError("x")),
    ],
    ids=repr,
)
def test_other_errors_of_a_handshake_are_failures(error: Exception) -> None:
    """A handshake that failed for another reason may succeed a moment later."""
    assert Classifier().error(error) == FAILURE


def test_certificate_of_another_attempt_does_not_count() -> None:
    """An error's `__context__`, which was being handled when it was raised, is not its cause."""
    with pytest.raises(ConnectionRefusedError) as caught:
        try:
            raise untrusted()
        except ssl.SSLError:
            raise ConnectionRefusedError  # noqa: B904
    assert not is_untrusted(caught.value)


def test_causes_in_a_circle_are_looked_through_once() -> None:
    """Errors that are each other's cause do not make the search endless."""
    first, second = OSError(), OSError()
    first.__cause__, second.__cause__ = second, first
    assert not is_untrusted(first)


async def test_real_handshake_with_a_self_signed_certificate_is_made_once(tmp_path: Any) -> None:
    """Over httpx, also for a POST: there is one handshake, and the circuit stays closed."""
    import trustme

    authority, shaken = trustme.CA(), 0
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal shaken
        shaken += 1
        try:
            await writer.start_tls(context)
        except (ssl.SSLError, OSError):
            pass
        writer.close()

    from resilient.http.httpx import AsyncClient

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    breaker = CircuitBreaker(None, fail_max=1)
    async with server, AsyncClient(Pipeline(Retry(3, wait=0), breaker), trust_env=False) as client:
        for method in ("GET", "POST"):
            with pytest.raises(httpx.ConnectError):
                await client.request(method, f"https://localhost:{server.sockets[0].getsockname()[1]}/")
            assert shaken == 1
            shaken = 0
