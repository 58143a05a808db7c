"""Requests that the live page answers or refuses, and what its buttons do."""

from __future__ import annotations

import json
import os
import re
from typing import Any

import pytest

from resilient import Bulkhead, CircuitBreaker, Pipeline
from resilient.observe.live import LiveView
from resilient.policies.keyed import Keyed
from tests.observe.live_client import Answer, request

TOKEN = "x-resilient-token"


def post_headers(view: LiveView, **others: str) -> dict[str, str]:
    """The header fields of a button: with its token, and without Origin, as a program sends them."""
    return {TOKEN: view._access.token, "content-type": "application/json", **others}


async def press(view: LiveView, headers: Any = None, **asked: Any) -> Answer:
    """Press a button."""
    body = json.dumps({"pid": os.getpid(), "policy": "", **asked}).encode()
    return await request(view, "/control", headers or post_headers(view), method="POST", body=body)


# -- clients ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
async def test_clients_of_this_machine_are_served(client: str) -> None:
    """By every spelling of its own address."""
    assert (await request(LiveView(), "/", client=(client, 1))).status == 200


@pytest.mark.parametrize(
    "client", ["10.0.0.7", "192.0.2.1", "::ffff:10.0.0.7", "2001:db8::1", "fe80::1%eth0", "testclient"]
)
@pytest.mark.parametrize("path", ["/", "/live.js", "/state.json", "/keys.json", "/events", "/control"])
async def test_other_clients_are_refused(client: str, path: str) -> None:
    """On every path, and the answer says which option allows them."""
    answer = await request(LiveView(controls=True), path, client=(client, 1))
    assert answer.status == 403
    assert "allow=" in answer.text


async def test_allowed_networks_are_served() -> None:
    """And no others."""
    view = LiveView(allow=["10.0.0.0/8", "2001:db8::1"])
    for client, status in {
        "10.1.2.3": 200,
        "2001:db8::1": 200,
        "::ffff:10.0.0.1": 200,
        "11.0.0.1": 403,
        "::1": 200,
    }.items():
        assert (await request(view, "/", client=(client, 1))).status == status, client


async def test_client_of_a_unix_socket_needs_permission() -> None:
    """It has no address, and may be a proxy."""
    refused = await request(LiveView(), "/", client=None)
    assert (refused.status, 'allow=["unix"]' in refused.text) == (403, True)
    assert (await request(LiveView(allow=["unix"]), "/", client=None)).status == 200


@pytest.mark.parametrize("field", ["x-forwarded-for", "forwarded", "via", "x-real-ip", "X-Forwarded-For"])
async def test_client_behind_a_proxy_on_this_machine_is_refused(field: str) -> None:
    """The proxy has an address of this machine, and its clients may be anywhere, whatever the header field says."""
    refused = await request(LiveView(), "/", {field: "127.0.0.1"})
    assert (refused.status, 'allow=["127.0.0.1"]' in refused.text) == (403, True)
    assert (await request(LiveView(allow=["127.0.0.1"]), "/", {field: "8.8.8.8"})).status == 200


# -- hosts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "LOCALHOST", "a.localhost", "127.0.0.1:1", "[::1]:80", "[::1]"]
)
async def test_own_names_and_addresses_are_served(host: str) -> None:
    """An address cannot be rebound."""
    assert (await request(LiveView(), "/", {"host": host})).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.nip.io", "127.1"]
)
async def test_other_hosts_are_refused(host: str) -> None:
    """A name of somebody else may lead to this machine (DNS rebinding)."""
    answer = await request(LiveView(), "/", {"host": host})
    assert (answer.status, "hosts=" in answer.text) == (403, True)


@pytest.mark.parametrize("host", ["", "a b", "localhost:x", "user@localhost", "[::1", "localhost/x"])
async def test_host_that_is_none_is_refused(host: str) -> None:
    """A missing one, too."""
    assert (await request(LiveView(), "/", [("host", host)])).status == 400


async def test_given_hosts_are_served() -> None:
    """In any case, with any port."""
    view = LiveView(hosts=["live.example.com"])
    assert (await request(view, "/", {"host": "Live.Example.com.:8443"})).status == 200
    assert (await request(view, "/", {"host": "example.com"})).status == 403


async def test_repeated_header_fields_are_refused() -> None:
    """A proxy could have read the other one."""
    headers = [("host", "localhost"), ("host", "evil.example")]
    assert (await request(LiveView(), "/", headers)).status == 400


# -- other sites ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("site", ["cross-site", "same-site", "nonsense"])
@pytest.mark.parametrize("path", ["/events", "/state.json", "/keys.json", "/live.js"])
async def test_requests_of_other_sites_are_refused(site: str, path: str) -> None:
    """They could open streams, and measure answers that they cannot read."""
    assert (await request(LiveView(), path, {"sec-fetch-site": site, "sec-fetch-mode": "no-cors"})).status == 403


async def test_link_of_another_site_may_lead_to_the_page() -> None:
    """The page cannot be framed, and does nothing by itself."""
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert (await request(LiveView(), "/", headers)).status == 200
    assert (await request(LiveView(controls=True), "/control", headers, method="POST")).status == 403


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1", "http://127.0.0.1:8001", "http://localhost:8000"]
)
async def test_post_of_another_origin_is_refused(origin: str) -> None:
    """Even with the token."""
    view = LiveView(controls=True)
    pipeline = Pipeline(Bulkhead(1), name="test-live-origin")
    answer = await press(view, post_headers(view, origin=origin), pipeline=pipeline.name, action="switch", mode="off")
    assert (answer.status, pipeline.mode) == (403, "on")


async def test_cross_site_post_is_refused() -> None:
    """Also by the word of the browser alone."""
    view = LiveView(controls=True)
    pipeline = Pipeline(Bulkhead(1), name="test-live-site")
    headers = post_headers(view, **{"sec-fetch-site": "cross-site"})
    assert (await press(view, headers, pipeline=pipeline.name, action="switch", mode="off")).status == 403
    assert pipeline.mode == "on"


@pytest.mark.parametrize("token", [None, "", "wrong", "é"])
async def test_post_needs_the_token(token: str | None) -> None:
    """Without Origin, as programs send it, and with the right one."""
    view = LiveView(controls=True)
    pipeline = Pipeline(Bulkhead(1), name="test-live-token")
    for origin in ({}, {"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"}):
        headers = {"content-type": "application/json", **origin, **({} if token is None else {TOKEN: token})}
        assert (await press(view, headers, pipeline=pipeline.name, action="switch", mode="off")).status == 403
    assert pipeline.mode == "on"


async def test_token_is_in_the_page_only_with_controls() -> None:
    """And differs from view to view."""
    one, other = LiveView(controls=True), LiveView(controls=True)
    assert one._access.token in (await request(one, "/")).text
    assert one._access.token != other._access.token
    plain = LiveView()
    assert plain._access.token not in (await request(plain, "/")).text


# -- buttons ----------------------------------------------------------------------------------------------------------


async def test_buttons_work_only_when_enabled() -> None:
    """Without `controls=True` a POST with everything right is refused."""
    view = LiveView()
    pipeline = Pipeline(Bulkhead(1), name="test-live-disabled")
    answer = await press(view, pipeline=pipeline.name, action="switch", mode="off")
    assert (answer.status, "controls=True" in answer.text) == (403, True)
    assert pipeline.mode == "on"


async def test_circuits_are_opened_closed_and_isolated() -> None:
    """Also in a nested pipeline."""
    breaker = CircuitBreaker()
    inner = Pipeline(Bulkhead(1), breaker)
    outer = Pipeline(Bulkhead(1), inner, name="test-live-buttons")
    view = LiveView(controls=True)
    for action, state in {"open": "open", "isolate": "isolated", "close": "closed"}.items():
        answer = await press(view, pipeline=outer.name, policy="1.1", action=action)
        assert (answer.status, breaker.state) == (200, state)
        assert answer.text == f"test-live-buttons, policy 1.1: the circuit is {state}"


async def test_circuit_of_a_key_is_controlled_by_the_name_of_its_gate() -> None:
    """Only if one key has that name: 1 and "1" look alike."""
    keyed = Keyed(CircuitBreaker, key=lambda key: key)
    pipeline = Pipeline(keyed, name="test-live-gate")
    gate: Any = keyed.gate_for("eu")
    for key in (1, "1"):
        keyed.gate_for(key)
    view = LiveView(controls=True)
    where = {"pipeline": pipeline.name, "policy": "0", "action": "open"}
    assert (await press(view, **where, gate=gate.name)).status == 200
    assert gate.state == "open"
    for name, text in {"CircuitBreaker[1]": "several keys", "CircuitBreaker[us]": "evicted"}.items():
        answer = await press(view, **where, gate=name)
        assert (answer.status, text in answer.text) == (409, True)


async def test_pipelines_are_switched() -> None:
    """The mode "default" is that of all pipelines."""
    pipeline = Pipeline(Bulkhead(1), name="test-live-switch")
    view = LiveView(controls=True)
    for mode in ("off", "once", "instant", "on", "default"):
        answer = await press(view, pipeline=pipeline.name, action="switch", mode=mode)
        assert (answer.status, pipeline.own_mode) == (200, None if mode == "default" else mode)


@pytest.mark.parametrize(
    ("asked", "status", "text"),
    [
        (
            {"pipeline": "test-live-nobody", "action": "open"},
            404,
            "no pipeline is called 'test-live-nobody'; there are: ",
        ),
        ({"pipeline": "test-live-asked", "policy": "9", "action": "open"}, 404, "has no policy at '9'"),
        ({"pipeline": "test-live-asked", "policy": "0.0", "action": "open"}, 404, "has no policy at '0.0'"),
        ({"pipeline": "test-live-asked", "policy": "0", "action": "open"}, 400, "policy 0 is no CircuitBreaker"),
        ({"pipeline": "test-live-asked", "policy": "0", "action": "explode"}, 400, "action must be one of open, close"),
        ({"pipeline": "test-live-asked", "policy": "0", "gate": "a", "action": "open"}, 400, "is no Keyed"),
        ({"pipeline": "test-live-asked", "policy": "0", "action": "switch", "mode": "off"}, 400, "is no pipeline"),
        ({"pipeline": "test-live-asked", "action": "switch", "mode": "fast"}, 400, "mode must be one of on, off"),
        ({"pipeline": "test-live-asked", "action": "switch"}, 400, "mode must be a text, got None"),
        ({"pipeline": 7, "action": "open"}, 400, "pipeline must be a text, got 7"),
        ({"pipeline": "test-live-asked", "pid": 1, "action": "open"}, 409, "another process"),
    ],
)
async def test_what_is_not_there_is_named(asked: dict[str, Any], status: int, text: str) -> None:
    """The answer says what would be right."""
    kept = Pipeline(Bulkhead(1), name="test-live-asked")
    answer = await press(LiveView(controls=True), **asked)
    assert answer.status == status
    assert text in answer.text
    assert kept.mode == "on"


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"[" * 4000])
async def test_body_that_is_no_object_is_refused(body: bytes) -> None:
    """With a clear answer."""
    view = LiveView(controls=True)
    answer = await request(view, "/control", post_headers(view), method="POST", body=body)
    assert (answer.status, "JSON object" in answer.text) == (400, True)


async def test_body_is_bounded_and_typed() -> None:
    """A form of another site cannot have this type."""
    view = LiveView(controls=True)
    answer = await request(view, "/control", post_headers(view), method="POST", body=b"x" * 5000)
    assert answer.status == 413
    headers = {**post_headers(view), "content-type": "text/plain"}
    assert (await request(view, "/control", headers, method="POST", body=b"{}")).status == 415


# -- paths and header fields ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/", "/live.css", "/live.js", "/icon.svg", "/state.json", "/events", "/nowhere", "/control"]
)
async def test_every_answer_has_the_header_fields_of_security(path: str) -> None:
    """Errors, too."""
    answer = await request(LiveView(), path, method="HEAD")
    assert answer.body == b""
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in answer.headers


async def test_page_has_nothing_inline_and_nothing_from_elsewhere() -> None:
    """Else the content security policy would have to allow it."""
    view = LiveView()
    page = (await request(view, "/")).text
    assert "style=" not in page
    assert not re.search(r"<[^>]*\son[a-z]+=", page)
    assert not re.search(r"<(script|style)[^>]*>[^<]", page)
    names = {word.split('"')[1] for word in page.split() if word.startswith(("src=", "href=")) and "#" not in word}
    assert names == {"icon.svg", "live.css", "live.js"}
    for name in (*names, "state.js"):
        text = (await request(view, f"/{name}")).text.replace("http://www.w3.org/2000/svg", "")
        assert "http" not in text.replace("https://www.w3.org", ""), name
        assert "innerHTML" not in text


@pytest.mark.parametrize(
    ("path", "root", "status"),
    [
        ("/live/", "/live", 200),
        ("/live/live.js", "/live", 200),
        ("/live.js", "/live", 200),
        ("/a/live/", "/a/live", 200),
        ("/livestock", "/live", 404),
        ("/live//etc", "/live", 404),
        ("/live.js/", "", 200),
    ],
)
async def test_page_is_found_below_its_root_path(path: str, root: str, status: int) -> None:
    """Whether the framework strips the root path or not."""
    assert (await request(LiveView(), path, root=root)).status == status


async def test_place_without_its_slash_leads_to_the_page() -> None:
    """Relative, so that it is right behind every proxy."""
    answer = await request(LiveView(), "/a/live", root="/a/live")
    assert (answer.status, answer.headers["location"]) == (307, "./live/")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_other_methods_are_refused(method: str) -> None:
    """A preflight of another site gets no permission."""
    answer = await request(LiveView(controls=True), "/state.json", method=method)
    assert answer.status == 405
    assert (await request(LiveView(controls=True), "/control")).status == 405


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({"controls": 1}, TypeError, "controls must be True or False, got 1"),
        ({"allow": "10.0.0.0/8"}, TypeError, "allow must be a list of texts"),
        ({"allow": ["all"]}, ValueError, "got 'all'"),
        ({"allow": [7]}, TypeError, "allow must be a list of texts"),
        ({"hosts": ["http://a.example"]}, ValueError, "got 'http://a.example'"),
        ({"hosts": ["a.example:80"]}, ValueError, "got 'a.example:80'"),
        ({"hosts": "a.example"}, TypeError, "hosts must be a list of texts"),
    ],
)
def test_bad_arguments_are_refused(arguments: Any, kind: type[Exception], text: str) -> None:
    """When the view is made."""
    with pytest.raises(kind, match=re.escape(text)):
        LiveView(**arguments)


async def test_lifespan_and_websockets_are_answered() -> None:
    """A server that serves the page alone asks for both."""
    view = LiveView()
    sent: list[Any] = []
    messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

    async def receive() -> Any:
        return next(messages, {"type": "websocket.connect"})

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await view({"type": "lifespan"}, receive, send)
    await view({"type": "websocket"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete", "websocket.close"]
