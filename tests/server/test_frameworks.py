"""Starlette, FastAPI and Litestar, under uvicorn and hypercorn, on asyncio and trio, over real connections."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import wsproto
import wsproto.events
from wsproto.connection import ConnectionType

from resilient import AdaptiveLimit, Bulkhead, CircuitBreaker, registry
from resilient.events import CallEnded, CallTimedOut
from resilient.server.asgi import ServerMiddleware
from tests.server.conftest import Site
from tests.server.running import SERVERS, Running

LONGER = (0.08, 0.16, 0.32, 0.64, 1.28, 2.56)
"""Deadlines in seconds, to try in turn: the machine may stand still until one is over before its handler is called."""

TOO_LATE = (504, "The deadline of the request has passed.")
TOO_MUCH = (503, "The server cannot take this request now.")


def answer(response: Any) -> tuple[int, str]:
    return response.status_code, response.text


def seconds(text: str) -> float:
    """Return the time that remained, from an answer of /left."""
    return float(text.split(maxsplit=1)[0])


# -- deadlines ------------------------------------------------------------------------------------------------------


def test_deadline_of_the_client_shortens_the_servers_own(site: Site) -> None:
    """It never lengthens it; invalid values are ignored."""
    site.open(max_deadline=300)
    assert 0 < seconds(site.get("/left", 60_000).text) <= 60
    assert 60 < seconds(site.get("/left", 1_000_000).text) <= 300
    assert 60 < seconds(site.get("/left", "soon").text) <= 300
    assert 60 < seconds(site.get("/left").text) <= 300


def test_without_a_deadline_there_is_none(site: Site) -> None:
    """The deadline of an earlier request on the same connection does not hold either."""
    site.open()
    assert seconds(site.get("/left", 60_000).text) <= 60
    assert site.get("/left").text == "None normal"


def test_expired_request_is_refused(site: Site) -> None:
    """No handler is called."""
    site.open(max_deadline=300)
    assert answer(site.get("/left", 0)) == TOO_LATE
    assert site.stage.called == []


@pytest.mark.parametrize("sent", [40, None])
def test_handler_is_cancelled_at_its_deadline(site: Site, sent: int | None) -> None:
    """The connection stays open."""
    site.open(max_deadline=60 if sent else 0.04)
    assert answer(site.get("/hang", sent)) == TOO_LATE
    assert site.stage.ended == ["/hang"]
    site.open()
    assert site.get("/left").status_code == 200


def test_calls_made_inside_pass_on_the_deadline_and_the_priority(site: Site, other: Running) -> None:
    """The other server reads the same headers."""
    inner = Site(other, site.framework)
    inner.open()
    site.open(max_deadline=300)
    site.stage.origin = f"{other.origin}/left"
    text = site.get("/call", 60_000, X_Priority="critical").text
    assert text.endswith(" critical")
    assert 0 < seconds(text) <= 60
    inner.close()


def test_call_made_inside_ends_with_its_request(site: Site, other: Running) -> None:
    """The other server gets the deadline, and cancels its handler, too."""
    inner = Site(other, site.framework)
    inner.open()
    site.open()
    site.stage.origin = f"{other.origin}/hang"
    for deadline in LONGER:
        found = answer(site.get("/call", round(1000 * deadline)))
        assert found in (TOO_LATE, (200, TOO_LATE[1]))  # the other's answer may be the first
        if inner.stage.called:
            break
    inner.stage.until(lambda: inner.stage.ended[:1] == ["/hang"])
    inner.close()


def test_handler_in_a_thread_is_not_waited_for(site: Site) -> None:
    """A thread cannot be stopped. On trio, which leaves no thread behind, the client waits for it."""
    site.open()
    if site.server.kind == "hypercorn-trio":
        for deadline in LONGER:
            asked = site.begin("/work", round(500 * deadline))
            assert (
                answer(site.get("/hang", round(1000 * deadline))) == TOO_LATE
            )  # by then the deadline has passed there, too
            if "/work" in site.stage.called:
                break
        assert not asked.done()
        site.stage.go.set()
        assert answer(asked.result()) == TOO_LATE
        return
    for deadline in LONGER:
        assert answer(site.get("/work", round(1000 * deadline))) == TOO_LATE
        if site.stage.called:
            break
    assert site.stage.ended == []
    site.stage.go.set()
    site.stage.until(lambda: site.stage.ended[:1] == ["/work"])


def test_handler_in_a_thread_that_is_in_time_answers(site: Site) -> None:
    """Its answer is passed on as that of any other handler."""
    site.open(limit=Bulkhead(1))
    site.stage.go.set()
    assert answer(site.get("/work", 60_000)) == (200, "worked")


# -- admission ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [lambda: Bulkhead(1), lambda: AdaptiveLimit(1)])
def test_full_server_refuses_requests_and_answers_health_checks(site: Site, limit: Any) -> None:
    """A request gets 503, a health check 200."""
    gate = limit()
    site.open(limit=gate, retry_after=7)
    held = site.begin("/hold")
    refused = site.get("/left")
    assert answer(refused) == TOO_MUCH
    assert refused.headers["Retry-After"] == "7"
    assert answer(site.get("/health")) == (200, "alive")
    site.stage.go.set()
    assert answer(held.result()) == (200, "held")
    assert site.get("/left").status_code == 200
    assert gate._at_rest


def test_answer_to_head_is_whole(site: Site) -> None:
    """The connection stays usable after the answer to a HEAD request."""
    if site.framework != "starlette":
        pytest.skip("Starlette alone answers HEAD where there is a GET")
    site.open()
    client = site._client
    assert client.head("/left").status_code == 200
    assert client.head("/left", headers={"X-Deadline-Ms": "0"}).status_code == 504
    assert client.head("/left").status_code == 200


def test_sheddable_requests_are_refused_first(site: Site) -> None:
    """The header sets the priority."""
    site.open(limit=AdaptiveLimit(3, shares={"sheddable": 0.34, "normal": 0.67}))
    held = [site.begin("/hold")]
    assert answer(site.get("/left", X_Priority="sheddable")) == TOO_MUCH
    held.append(site.begin("/hold"))
    assert answer(site.get("/left")) == TOO_MUCH
    assert site.get("/left", X_Priority="critical").text == "None critical"
    held.append(site.begin("/hold", X_Priority="critical"))
    assert answer(site.get("/left", X_Priority="critical")) == TOO_MUCH
    site.stage.go.set()
    assert {each.result().text for each in held} == {"held"}


def test_function_of_the_scope_may_say_the_priority(site: Site) -> None:
    """It is for servers that cannot trust their clients."""
    site.open(priority=lambda scope: "critical" if scope["path"] == "/left" else None)
    assert site.get("/left", X_Priority="sheddable").text == "None critical"


def test_deadline_of_the_client_is_no_evidence_and_the_servers_own_is(site: Site) -> None:
    """A circuit opens at the first failure."""
    breaker = CircuitBreaker(fail_max=1, failure_rate=None)
    site.open(limit=breaker, max_deadline=60)
    assert answer(site.get("/hang", 30)) == TOO_LATE
    assert site.get("/fail", Connection="close").status_code == 500  # uvicorn closes it anyway
    assert answer(site.get("/bad")) == (503, "its own")
    assert site.get("/nowhere").status_code == 404
    assert breaker.state == "closed"
    site.open(limit=breaker, max_deadline=0.03)
    assert answer(site.get("/hang")) == TOO_LATE
    assert breaker.state == "open"
    refused = site.get("/left")
    assert answer(refused) == TOO_MUCH
    assert int(refused.headers["Retry-After"]) > 1


# -- bodies ---------------------------------------------------------------------------------------------------------


class Connection:
    """A context: an HTTP/1.1 connection, for clients that pause within a body."""

    def __init__(self, site: Site, *headers: str) -> None:
        self._socket = socket.create_connection(site.server.address, 20)
        self.send("POST /upload HTTP/1.1", "Host: test", *headers, "", "")

    def send(self, *lines: str) -> None:
        self._socket.sendall("\r\n".join(lines).encode())

    def until(self, text: str) -> str:
        """Read the output of the server up to this text."""
        said = ""
        while text not in said and (received := self._socket.recv(4096)):
            said += received.decode()
        assert text in said
        return said

    def is_closed(self) -> bool:
        return not self._socket.recv(4096)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._socket.close()


LENGTH, CHUNKED, EXPECT = "Content-Length: 6", "Transfer-Encoding: chunked", "Expect: 100-continue"


def test_clients_that_do_not_send_hold_no_permit(site: Site) -> None:
    """This holds at every point of the body; their uploads are served once they are complete."""
    bulkhead = Bulkhead(1)
    site.open(limit=bulkhead, max_deadline=60)
    with (
        Connection(site, LENGTH) as silent,
        Connection(site, LENGTH) as slow,
        Connection(site, CHUNKED) as chunked,
    ):
        slow.send("abc")
        chunked.send("3", "abc", "")
        site.stage.until(lambda: site.stage.called == ["/upload"])
        with Connection(site, LENGTH, EXPECT) as expecting:
            expecting.until("HTTP/1.1 100")
            while (answered := site.get("/left")).status_code == 503:  # one of them is just about to wait
                pass
            assert answered.status_code == 200
            for connection, rest in (
                (silent, ("abcdef",)),
                (slow, ("def",)),
                (chunked, ("3", "def", "0", "", "")),
                (expecting, ("abcdef",)),
            ):
                connection.send(*rest)
                assert "HTTP/1.1 200" in connection.until("\r\n\r\n6")
    assert bulkhead._at_rest


def test_body_that_does_not_come_is_408(site: Site) -> None:
    """It is the server's own limit, whether the application was called or not; no circuit opens, and the connection is
    closed."""
    breaker = CircuitBreaker(fail_max=1, failure_rate=None)
    site.open(limit=breaker, max_deadline=0.02)
    with (
        Connection(site, LENGTH) as silent,
        Connection(site, CHUNKED) as chunked,
        Connection(site, LENGTH, EXPECT) as expecting,
    ):
        chunked.send("3", "abc", "")
        for connection in (silent, chunked, expecting):
            answered = connection.until("The body of the request did not come in time.")
            assert "HTTP/1.1 408" in answered
            assert "\r\nconnection: close\r\n" in answered.lower()
            assert connection.is_closed()
    assert breaker.state == "closed"
    site.open()
    assert site.get("/left").status_code == 200


def test_large_body_is_read_whole(site: Site) -> None:
    """The body has many parts, more than are read ahead."""
    site.open(limit=Bulkhead(1), max_deadline=60)
    size = 3_000_000
    assert site._client.post("/upload", content=b"x" * size).text == str(size)
    assert site._client.post("/upload", content=iter([b"x" * 100_000] * 30)).text == str(size)
    assert site._client.post("/upload").text == "0"


def test_client_that_leaves_amid_its_upload_leaves_nothing_behind(site: Site) -> None:
    """It leaves before the application is called, or after."""
    site.open(limit=Bulkhead(1), max_deadline=60, name="shop")
    with Connection(site, LENGTH) as silent, Connection(site, CHUNKED) as chunked:
        silent.send("abc")
        chunked.send("3", "abc", "")
        site.stage.until(lambda: site.stage.called == ["/upload"])
    pipeline = registry.pipeline("shop")
    while pipeline.snapshot()["in_flight"]:
        pass
    assert site.get("/left").status_code == 200


@pytest.mark.parametrize("kind", SERVERS)
def test_client_that_does_not_read_holds_no_permit(kind: str) -> None:
    """The answer to its next request on the same connection is ready, but the client does not read it."""
    bulkhead = Bulkhead(1)
    large = b"x" * 20_000_000

    async def application(scope: Any, receive: Any, send: Any) -> None:
        body = large if scope["path"] == "/large" else b"small"
        head = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": body})

    with Running(kind) as server, server.client() as client, socket.socket() as silent:
        server.app = ServerMiddleware(application, limit=bulkhead, max_deadline=0.02, name="silent")
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        silent.connect(server.address)
        silent.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\nGET /next HTTP/1.1\r\nHost: x\r\n\r\n")
        assert silent.recv(1)
        while (answered := client.get("/")).status_code == 503:
            pass
        assert answered.text == "small"
        assert bulkhead._at_rest


# -- requests that run on -------------------------------------------------------------------------------------------


def test_stream_runs_on_after_its_first_part(site: Site) -> None:
    """It runs beyond the deadline, and without a permit."""
    bulkhead = Bulkhead(1)
    for deadline in LONGER:
        site.open(limit=bulkhead, max_deadline=deadline)
        with site.stream("/stream") as response:
            if response.status_code == 504:
                continue
            parts = response.iter_text()
            text = next(parts)
            assert bulkhead._at_rest
            assert answer(site.get("/hang")) == TOO_LATE  # so it is later than the deadline of the stream was
            site.stage.go.set()
            text += "".join(parts)
        break
    assert text == "first None, second None"


def test_background_task_runs_on(site: Site) -> None:
    """It has neither a deadline nor a permit."""
    bulkhead = Bulkhead(1)
    for deadline in LONGER:
        site.open(limit=bulkhead, max_deadline=deadline)
        if (found := answer(site.get("/after"))) != TOO_LATE:
            break
    assert found == (200, "answered")
    assert answer(site.get("/hang")) == TOO_LATE
    site.stage.go.set()
    site.stage.until(lambda: bool(site.stage.notes))
    assert site.stage.notes == [("after", None)]


def test_client_that_goes_away_leaves_nothing_behind(site: Site) -> None:
    """Its permit is released at its deadline at the latest."""
    bulkhead = Bulkhead(1)
    for deadline in LONGER:
        site.open(limit=bulkhead, max_deadline=deadline)
        with socket.create_connection(site.server.address) as connection:
            connection.sendall(b"GET /hang HTTP/1.1\r\nHost: test\r\n\r\n")
            while not (site.stage.called or select.select([connection], [], [], 0.001)[0]):
                pass
        if site.stage.called:
            break
    site.stage.until(lambda: site.stage.ended == ["/hang"])
    response = site.get("/left")
    while response.status_code == 503:  # it ends a moment after its handler
        response = site.get("/left")
    assert response.status_code == 200
    assert bulkhead._at_rest


def test_websocket_passes_untouched(site: Site) -> None:
    """It has no deadline, needs no permit, and is never refused."""
    bulkhead = Bulkhead(1)
    site.open(limit=bulkhead, max_deadline=60)
    held = site.begin("/hold")
    with socket.create_connection(site.server.address, 20) as connection:
        websocket = wsproto.WSConnection(ConnectionType.CLIENT)
        headers = [(b"X-Deadline-Ms", b"0")]
        connection.sendall(websocket.send(wsproto.events.Request("test", "/echo", extra_headers=headers)))
        said: list[Any] = []
        while not any(isinstance(event, wsproto.events.TextMessage) for event in said):
            received = connection.recv(4096)
            assert received, said
            websocket.receive_data(received)
            for event in websocket.events():
                said.append(event)
                if isinstance(event, wsproto.events.AcceptConnection):
                    connection.sendall(websocket.send(wsproto.events.TextMessage("hello")))
    assert [event.data for event in said if isinstance(event, wsproto.events.TextMessage)] == ["hello None"]
    site.stage.go.set()
    assert held.result().status_code == 200


# -- events ---------------------------------------------------------------------------------------------------------


def test_registry_and_events_have_the_middleware(site: Site) -> None:
    """It has one name, however many applications a framework wraps with it."""
    site.open(limit=Bulkhead(3), max_deadline=60, name="shop")
    held = site.begin("/hold")
    pipeline = registry.pipeline("shop")
    heard: list[Any] = []
    stop = pipeline.listen(heard.append)
    assert pipeline.snapshot()["in_flight"] == 1
    assert pipeline.snapshot()["policies"][1]["in_use"] == 1
    assert answer(site.get("/hang", 30)) == TOO_LATE
    assert site.get("/left").status_code == 200
    stop()
    kinds = [(type(event), event.pipeline) for event in heard if isinstance(event, CallEnded | CallTimedOut)]
    assert kinds == [(CallEnded, "shop"), (CallTimedOut, "shop"), (CallEnded, "shop")]
    site.stage.go.set()
    assert held.result().text == "held"


@pytest.mark.parametrize("kind", ["uvicorn", "hypercorn"])
def test_outermost_it_guards_any_application(kind: str) -> None:
    """It guards a plain ASGI function, too; `uvicorn` detects the kind of application."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    with Running(kind) as server, server.client() as client:
        server.app = ServerMiddleware(application, deadline_header=True)
        assert answer(client.get("/")) == (200, "ok")
        assert answer(client.get("/", headers={"X-Deadline-Ms": "0"})) == TOO_LATE


def test_http2_upload_that_pauses_holds_no_permit() -> None:
    """No header announces its body."""
    bulkhead, go = Bulkhead(1), threading.Event()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        size = 0
        while (message := await receive()).get("more_body"):
            size += len(message["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(size + len(message["body"])).encode()})

    def parts() -> Iterator[bytes]:
        yield b"abc"
        assert go.wait(20)
        yield b"def"

    with Running("hypercorn") as server, ThreadPoolExecutor(1) as pool:
        server.app = ServerMiddleware(application, limit=bulkhead, max_deadline=60, name="shop")
        options: dict[str, Any] = {"base_url": server.origin, "http1": False, "http2": True, "timeout": 20}
        with httpx.Client(**options) as client, httpx.Client(**options) as other:
            uploaded = pool.submit(client.post, "/", content=parts())
            while registry.pipeline("shop").snapshot()["in_flight"] == 0 or not bulkhead._at_rest:
                pass
            assert answer(other.get("/")) == (200, "0")
            go.set()
            assert answer(uploaded.result()) == (200, "6")
