"""Features above a transport (authentication, hooks, cookies, redirects) work over ours as over the client's own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import pytest
from authlib.integrations.httpx_client import AsyncOAuth2Client, OAuth2Client

from resilient import Pipeline, Retry, standard
from tests.http.kinds import URL, AsyncHttpx2, Kind, Script, SyncHttpx2

TOKENS = "https://login.example/token"


def retrying(attempts: int = 3) -> Pipeline:
    return Pipeline(Retry(attempts, wait=0))


# -- OAuth2 (authlib, which takes httpx2's transports) --------------------------------------------------------------


class Login:
    """A token server: each token is good for an hour."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.issued = 0

    def __call__(self, request: Any) -> Any:
        self.issued += 1
        token = {"access_token": f"token-{self.issued}", "token_type": "Bearer", "expires_in": 3600}
        return self.kind.library.Response(200, json={**token, "refresh_token": "fresh"})


OAUTH = pytest.mark.parametrize("kind", [AsyncHttpx2, SyncHttpx2], indirect=True)


def oauth(kind: Kind, script: Script, **options: Any) -> Any:
    make: Callable[..., Any] = AsyncOAuth2Client if kind.is_async else OAuth2Client
    transport = kind.transport_of(retrying(), transport=script.inner)
    return kind.keep(make("us", "s3cret", transport=transport, token_endpoint=TOKENS, **options))


@OAUTH
def test_token_is_fetched_and_used_on_every_attempt(kind: Kind) -> None:
    """With client credentials, the request is repeated with its token."""
    login = Login(kind)
    script = kind.script(login, 503, 500)
    client = oauth(kind, script)
    kind.run(lambda: client.fetch_token(TOKENS, grant_type="client_credentials"))
    assert kind.send(client).status_code == 200
    assert [str(request.url) for request in script.sent] == [TOKENS, URL, URL, URL]
    assert script.headers("Authorization")[1:] == ["Bearer token-1"] * 3
    assert (script.headers("Authorization")[0] or "").startswith("Basic ")


@OAUTH
def test_expired_token_is_refreshed_once(kind: Kind) -> None:
    """It is refreshed before the request, not for each attempt."""
    script = kind.script(Login(kind), 503)
    expired = {"access_token": "old", "token_type": "Bearer", "refresh_token": "fresh", "expires_at": time.time() - 60}
    client = oauth(kind, script, token=expired)
    assert kind.send(client, "PUT", content=b"body").status_code == 200
    assert kind.send(client).status_code == 200
    assert [request.url.host for request in script.sent] == ["login.example"] + ["example.com"] * 3
    assert parse_qs(script.sent[0].content.decode())["grant_type"] == ["refresh_token"]
    assert script.headers("Authorization")[1:] == ["Bearer token-1"] * 3
    assert [request.content for request in script.sent[1:3]] == [b"body"] * 2


@OAUTH
def test_refresh_is_not_sent_twice_unless_it_never_left(kind: Kind) -> None:
    """A refresh token may be good for one use."""
    expired = {"access_token": "old", "token_type": "Bearer", "refresh_token": "fresh", "expires_at": time.time() - 60}
    script = kind.script(503)
    client = oauth(kind, script, token=dict(expired))
    with pytest.raises(kind.library.HTTPStatusError):
        kind.send(client)
    assert len(script.sent) == 1
    script = kind.script(kind.library.ConnectError("nobody"), Login(kind))
    client = oauth(kind, script, token=dict(expired))
    assert kind.send(client).status_code == 200
    assert [request.url.host for request in script.sent] == ["login.example"] * 2 + ["example.com"]


@OAUTH
def test_options_of_a_request_survive_authlibs_new_one(kind: Kind) -> None:
    """authlib makes another request of each, with the extensions of the first."""
    token = {"access_token": "good", "token_type": "Bearer", "expires_at": time.time() + 3600}
    script = kind.script(503)
    client = oauth(kind, script, token=token)
    options = {"extensions": {"resilient": {"idempotency_key": "order-7"}}}
    assert kind.send(client, "POST", content=b"order", **options).status_code == 200
    assert script.headers("Idempotency-Key") == ["order-7"] * 2
    assert [request.content for request in script.sent] == [b"order"] * 2


@OAUTH
def test_requests_at_once_refresh_once(kind: Kind) -> None:
    """authlib's lock holds over our transport."""
    if not kind.is_async:
        return
    script = kind.script(Login(kind))
    expired = {"access_token": "old", "token_type": "Bearer", "refresh_token": "fresh", "expires_at": time.time() - 60}
    client = oauth(kind, script, token=expired)

    async def both() -> None:
        await asyncio.gather(client.get(URL), client.get(URL))

    kind.run(both)
    assert [request.url.host for request in script.sent] == ["login.example", "example.com", "example.com"]


# -- basic and digest -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["argument", "url"])
def test_basic_authentication_is_sent_on_every_attempt(kind: Kind, how: str) -> None:
    """It comes from `auth=`, or from the URL."""
    script = kind.script(503)
    client = kind.open(retrying(), script)
    if how == "url":
        kind.send(client, url="http://me:s3cret@example.com/")
    else:
        kind.send(client, auth=("me", "s3cret"))
    assert script.headers("Authorization") == ["Basic bWU6czNjcmV0"] * 2


def test_digest_authentication_answers_its_challenge(kind: Kind) -> None:
    """A 401 is a success; the request that follows is a separate call with its own attempts."""
    challenge = 'Digest realm="us", nonce="abc", qop="auth", algorithm=MD5'
    script = kind.script(503, (401, {"WWW-Authenticate": challenge}), 503)
    client = kind.open(retrying(2), script)
    response = kind.send(client, "PUT", content=b"body", auth=kind.library.DigestAuth("me", "s3cret"))
    assert response.status_code == 200
    authorizations = script.headers("Authorization")
    assert authorizations[:2] == [None, None]
    assert authorizations[2] == authorizations[3]
    assert (authorizations[3] or "").startswith('Digest username="me"')
    assert [request.content for request in script.sent] == [b"body"] * 4


def test_digest_authentication_of_a_post_keeps_its_key(kind: Kind) -> None:
    """Each request of the exchange has one key, the same on its attempts."""
    challenge = 'Digest realm="us", nonce="abc", qop="auth", algorithm=MD5'
    script = kind.script((401, {"WWW-Authenticate": challenge}), 503)
    client = kind.open(retrying(2), script, idempotency_key=True)
    response = kind.send(client, "POST", content=b"body", auth=kind.library.DigestAuth("me", "s3cret"))
    assert response.status_code == 200
    keys = script.headers("Idempotency-Key")
    assert len(keys) == 3
    assert keys[1] == keys[2]
    assert all(keys)


def test_auth_flow_of_the_user_sees_last_responses_only(kind: Kind) -> None:
    """An `Auth` asks for a token, reads the response, and tries again."""
    seen = []

    class InFlight(kind.library.Auth):  # type: ignore[misc,name-defined]
        requires_response_body = True

        def auth_flow(self, request: Any) -> Any:
            response = yield request
            seen.append((response.status_code, response.content))
            token = yield kind.library.Request("GET", TOKENS)
            request.headers["Authorization"] = f"Bearer {token.content.decode()}"
            yield request

    script = kind.script(503, (401, {}), 503, lambda request: kind.library.Response(200, content=b"good"))
    assert kind.send(kind.open(retrying(), script), auth=InFlight()).status_code == 200
    assert seen == [(401, b"status 401")]
    assert script.headers("Authorization")[-1] == "Bearer good"


# -- hooks ----------------------------------------------------------------------------------------------------------


def hooks_of(kind: Kind, **hooks: Callable[[Any], Any]) -> dict[str, Any]:
    def asynchronous(hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
        async def called(value: Any) -> None:
            result = hook(value)
            if asyncio.iscoroutine(result):
                await result

        return called

    return {"event_hooks": {name: [asynchronous(hook) if kind.is_async else hook] for name, hook in hooks.items()}}


def test_hooks_are_called_once_for_each_request(kind: Kind) -> None:
    """Changes of the request hook are sent on every attempt; the response hook sees the last response."""
    asked: list[Any] = []
    answered: list[Any] = []

    def ask(request: Any) -> None:
        asked.append(request)
        request.headers["X-Hooked"] = "yes"

    script = kind.script(503, 500)
    client = kind.open(retrying(), script, client=hooks_of(kind, request=ask, response=answered.append))
    response = kind.send(client)
    assert script.headers("X-Hooked") == ["yes"] * 3
    assert len(asked) == 1
    assert answered == [response]
    assert response.request is asked[0]


def test_hook_that_raises_for_status_is_called_after_the_last_attempt(kind: Kind) -> None:
    """Its error has the request and the response, which it may read."""

    def check(response: Any) -> Any:
        def finish(_: Any = None) -> None:
            assert response.content == b"status %d" % response.status_code
            response.raise_for_status()

        if not kind.is_async:
            response.read()
            return finish()

        async def later() -> None:
            await response.aread()
            finish()

        return later()

    script = kind.script(503, 503, 503)
    client = kind.open(retrying(), script, client=hooks_of(kind, response=check))
    with pytest.raises(kind.library.HTTPStatusError) as caught:
        kind.send(client)
    assert len(script.sent) == 3
    assert caught.value.request.url == URL
    assert caught.value.response.status_code == 503
    assert kind.send(client).status_code == 200


# -- cookies and redirects ------------------------------------------------------------------------------------------


def test_cookies_of_the_last_answer_are_kept(kind: Kind) -> None:
    """The cookies of replaced responses are dropped."""
    script = kind.script((503, {"Set-Cookie": "lost=1"}), (200, {"Set-Cookie": "kept=2"}))
    client = kind.open(retrying(), script)
    kind.send(client)
    kind.send(client)
    assert script.headers("Cookie") == [None, None, "kept=2"]


REDIRECTS: list[tuple[str, int, str]] = [
    (method, status, location)
    for method in ("GET", "PUT", "POST")
    for status in (301, 303, 307)
    for location in ("/there", "http://elsewhere.example/there", "https://example.com/there")
]


@pytest.mark.parametrize(("method", "status", "location"), REDIRECTS)
def test_redirect_is_the_same_as_without_us(kind: Kind, method: str, status: int, location: str) -> None:
    """`Authorization` and cookies do not go to another origin; method and body are the client's decision."""
    sent = []
    for guarded in (False, True):
        script = kind.script((status, {"Location": location, "Set-Cookie": "session=1"}))
        make = kind.client_of(transport=script.inner) if not guarded else None
        client = kind.keep(make) if make else kind.open(standard(), script)
        headers = {"Authorization": "Bearer s3cret", "X-Api-Key": "s3cret"}
        response = kind.send(
            client, method, headers=headers, content=b"body" if method != "GET" else None, follow_redirects=True
        )
        assert [each.status_code for each in response.history] == [status]
        sent.append([(each.method, str(each.url), each.headers.raw, each.content) for each in script.sent])
    assert sent[0] == sent[1]
    carries = any(name.lower() == b"authorization" for name, _ in sent[1][1][2])
    assert carries is (location == "/there" or location.startswith("https://example.com"))


def test_failed_request_of_a_redirect_is_repeated_where_it_was_sent(kind: Kind) -> None:
    """Nothing meant for one origin is sent to the other."""
    script = kind.script(503, (302, {"Location": "http://elsewhere.example/"}), 503)
    client = kind.open(retrying(), script)
    response = kind.send(client, headers={"Authorization": "Bearer s3cret"}, follow_redirects=True)
    assert response.status_code == 200
    assert [request.url.host for request in script.sent] == ["example.com"] * 2 + ["elsewhere.example"] * 2
    assert script.headers("Authorization") == ["Bearer s3cret"] * 2 + [None] * 2


def test_too_many_redirects_are_the_clients_error(kind: Kind) -> None:
    """They are not repeated, and are no failure of the server."""
    script = kind.script(*[(302, {"Location": "/"})] * 30)
    with pytest.raises(kind.library.TooManyRedirects):
        kind.send(kind.open(retrying(), script, client={"max_redirects": 5}), follow_redirects=True)
    assert len(script.sent) == 6
