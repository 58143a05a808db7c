"""The SDKs of OpenAI and Anthropic over our clients and transports, against a server with their interfaces."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import anthropic
import httpx2
import openai
import pytest

from resilient import CircuitBreaker, CircuitOpen, Pipeline, Retry, Timeout, standard
from resilient.http.httpx2 import AsyncClient, AsyncTransport, Client, Transport
from tests.http.sdk_server import WORDS, Cut, Refusal, SdkServer

STORY = "".join(WORDS)


class Sdk:
    """One SDK, asynchronous or plain, over our client or over its own kind of client with our transport."""

    is_async: ClassVar[bool]
    module: ClassVar[Any]

    def __init__(self, whole: bool) -> None:
        self.whole = whole
        self.runner = asyncio.Runner() if self.is_async else None
        self.http: Any = None
        self.api: Any = None

    def open(self, origin: str, pipeline: Pipeline, *, max_retries: int = 0, **options: Any) -> None:
        options = {"idempotency_key": True, **options}
        ours, transport = (AsyncClient, AsyncTransport) if self.is_async else (Client, Transport)
        theirs = httpx2.AsyncClient if self.is_async else httpx2.Client
        self.http = (
            ours(pipeline, **options) if self.whole else theirs(transport=transport(pipeline, **options), timeout=1)  # type: ignore[arg-type]
        )
        self.api = self.make(origin, max_retries)

    def make(self, origin: str, max_retries: int) -> Any:
        raise NotImplementedError

    def create(self, **options: Any) -> Any:
        raise NotImplementedError

    def text(self, answer: Any) -> str:
        raise NotImplementedError

    def word(self, event: Any) -> str:
        raise NotImplementedError

    def ask(self, **options: Any) -> str:
        """Send a question, and return the answer."""
        if self.runner is None:
            return self.text(self.create(**options))

        async def main() -> Any:
            return await self.create(**options)

        return self.text(self.runner.run(main()))

    def stream(self, words: list[str], after_first: Callable[[], object] = lambda: None) -> None:
        """Send a question; the words of the answer are added as they arrive."""

        def take(event: Any) -> None:
            word = self.word(event)
            if word:
                words.append(word)
                if len(words) == 1:
                    after_first()

        if self.runner is None:
            for event in self.create(stream=True):
                take(event)
            return

        async def main() -> None:
            async for event in await self.create(stream=True):
                take(event)

        self.runner.run(main())

    @property
    def connections(self) -> list[Any]:
        """Return the connections that are not free."""
        pool = self.http._transport.transport._pool
        return [each for each in pool.connections if not (each.is_idle() or each.is_closed())]

    def close(self) -> None:
        if self.http is not None:
            if self.runner is None:
                self.http.close()
            else:
                self.runner.run(self.http.aclose())
        if self.runner is not None:
            self.runner.close()


class OpenAI(Sdk):
    module, is_async = openai, False

    def make(self, origin: str, max_retries: int) -> Any:
        kind: Any = openai.AsyncOpenAI if self.is_async else openai.OpenAI
        return kind(api_key="secret", base_url=f"{origin}/v1", http_client=self.http, max_retries=max_retries)

    def create(self, **options: Any) -> Any:
        messages = [{"role": "user", "content": "Tell me a story"}]
        return self.api.chat.completions.create(model="story", messages=messages, **options)

    def text(self, answer: Any) -> str:
        return str(answer.choices[0].message.content)

    def word(self, event: Any) -> str:
        return event.choices[0].delta.content or ""


class AsyncOpenAI(OpenAI):
    is_async = True


class Anthropic(Sdk):
    module, is_async = anthropic, False

    def make(self, origin: str, max_retries: int) -> Any:
        kind: Any = anthropic.AsyncAnthropic if self.is_async else anthropic.Anthropic
        return kind(api_key="secret", base_url=origin, http_client=self.http, max_retries=max_retries)

    def create(self, **options: Any) -> Any:
        messages = [{"role": "user", "content": "Tell me a story"}]
        return self.api.messages.create(model="story", max_tokens=99, messages=messages, **options)

    def text(self, answer: Any) -> str:
        return str(answer.content[0].text)

    def word(self, event: Any) -> str:
        return event.delta.text if event.type == "content_block_delta" else ""


class AsyncAnthropic(Anthropic):
    is_async = True


@pytest.fixture(scope="module")
def running() -> Iterator[SdkServer]:
    with SdkServer() as server:
        yield server


@pytest.fixture
def server(running: SdkServer) -> SdkServer:
    running.reset()
    return running


PAIRS = [(OpenAI, True), (AsyncOpenAI, False), (Anthropic, False), (AsyncAnthropic, True)]
"""Each SDK, and each of its two kinds of client, meets both our client and our transport."""


@pytest.fixture(
    params=PAIRS,
    ids=lambda param: f"{param[0].__name__}-{'our client' if param[1] else 'our transport'}",
)
def sdk(request: pytest.FixtureRequest) -> Iterator[Sdk]:
    kind, whole = request.param
    made: Sdk = kind(whole)
    yield made
    made.close()


def retrying(attempts: int = 3) -> Pipeline:
    return Pipeline(Retry(attempts, wait=0))


# -- the SDK's own retries off --------------------------------------------------------------------------------------


def test_answer_comes_through_the_standard_pipeline(sdk: Sdk, server: SdkServer) -> None:
    """The SDK gets its response as JSON, or as events."""
    sdk.open(server.origin, standard())
    assert sdk.ask() == STORY
    words: list[str] = []
    sdk.stream(words)
    assert words == WORDS
    assert len(server.seen) == 2
    assert sdk.connections == []


@pytest.mark.parametrize("streamed", [False, True])
def test_call_succeeds_after_a_burst_of_failures(sdk: Sdk, server: SdkServer, streamed: bool) -> None:
    """500s, an overloaded server, a connection that is reset before the head: the call succeeds, with one idempotency
    key."""
    server.script.extend([Refusal(500), Refusal(503), Cut(0), Cut(0, "close"), Refusal(502)])
    sdk.open(server.origin, retrying(6))
    words: list[str] = []
    if streamed:
        sdk.stream(words)
    else:
        words.append(sdk.ask())
    assert "".join(words) == STORY
    assert len(server.seen) == 6
    assert len({seen.headers["idempotency-key"] for seen in server.seen}) == 1
    assert len({str(seen.body) for seen in server.seen}) == 1
    assert {seen.headers["x-stainless-retry-count"] for seen in server.seen} == {"0"}
    assert sdk.connections == []


@pytest.mark.parametrize(
    "headers",
    [
        {"retry-after-ms": "60"},
        {"retry-after": "0.06"},
        {"retry-after-ms": "60", "retry-after": "3600"},
        {"x-ratelimit-reset-requests": "60ms", "x-ratelimit-remaining-requests": "0"},
        {
            "x-ratelimit-reset-requests": "1h2m3s",
            "x-ratelimit-remaining-requests": "5",
            "x-ratelimit-reset-tokens": "60ms",
            "x-ratelimit-remaining-tokens": "0",
        },
        {"anthropic-ratelimit-requests-reset": "2026-11-24T14:31:00Z", "retry-after": "0.06"},
    ],
    ids=" ".join,
)
def test_pushback_of_a_rate_limit_is_kept(sdk: Sdk, server: SdkServer, headers: dict[str, str]) -> None:
    """This holds in all the forms that these servers send."""
    server.script.append(Refusal(429, headers))
    sdk.open(server.origin, Pipeline(Retry(2, wait=0)))
    began = time.monotonic()
    assert sdk.ask() == STORY
    assert 0.06 <= time.monotonic() - began < 60
    assert len(server.seen) == 2


def test_pushback_that_is_too_long_is_the_users(sdk: Sdk, server: SdkServer) -> None:
    """The user gets the SDK's own `RateLimitError` at once, with the server's response."""
    server.script.append(Refusal(429, {"retry-after": "3600"}))
    sdk.open(server.origin, retrying())
    with pytest.raises(sdk.module.RateLimitError) as caught:
        sdk.ask()
    assert caught.value.response.headers["retry-after"] == "3600"
    assert "scripted" in str(caught.value.body)
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("status", "error"), [(400, "BadRequestError"), (401, "AuthenticationError"), (422, "UnprocessableEntityError")]
)
def test_responses_to_errors_of_the_caller_are_not_repeated(
    sdk: Sdk, server: SdkServer, status: int, error: str
) -> None:
    """The SDK raises its own errors for 400, 401 and 422."""
    server.script.append(Refusal(status))
    sdk.open(server.origin, retrying())
    with pytest.raises(getattr(sdk.module, error)):
        sdk.ask()
    assert len(server.seen) == 1


def test_last_failure_is_the_sdks_own_error(sdk: Sdk, server: SdkServer) -> None:
    """The error of the SDK has the last response."""
    server.script.extend([Refusal(500)] * 3)
    sdk.open(server.origin, retrying())
    with pytest.raises(sdk.module.InternalServerError):
        sdk.ask()
    assert len(server.seen) == 3
    assert sdk.connections == []


def test_without_a_key_a_question_is_not_repeated(sdk: Sdk, server: SdkServer) -> None:
    """It may have been answered, and charged."""
    server.script.append(Refusal(500))
    sdk.open(server.origin, retrying(), idempotency_key=False)
    with pytest.raises(sdk.module.InternalServerError):
        sdk.ask()
    assert len(server.seen) == 1
    assert "idempotency-key" not in server.seen[0].headers


def test_users_key_is_kept(sdk: Sdk, server: SdkServer) -> None:
    """`extra_headers={"Idempotency-Key": ...}` makes the request repeatable."""
    server.script.append(Refusal(500))
    sdk.open(server.origin, retrying(), idempotency_key=False)
    assert sdk.ask(extra_headers={"Idempotency-Key": "story-7"}) == STORY
    assert [seen.headers["idempotency-key"] for seen in server.seen] == ["story-7"] * 2


# -- streams --------------------------------------------------------------------------------------------------------


def test_first_word_is_there_before_the_second_is_sent(sdk: Sdk, server: SdkServer) -> None:
    """No policy waits for the end of a stream."""
    server.held = True
    sdk.open(server.origin, standard())
    words: list[str] = []
    sdk.stream(words, server.go_on)
    assert words == WORDS


@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("heard", [1, 3])
def test_stream_is_never_replayed_once_a_word_was_heard(sdk: Sdk, server: SdkServer, how: Any, heard: int) -> None:
    """The user gets the words so far, and the error; the server saw one request."""
    server.script.append(Cut(heard, how))
    sdk.open(server.origin, retrying())
    words: list[str] = []
    with pytest.raises((httpx2.TransportError, sdk.module.APIConnectionError)):
        sdk.stream(words)
    assert words == WORDS[:heard]
    assert len(server.seen) == 1
    assert sdk.connections == []


def test_circuit_learns_of_a_stream_that_breaks_off(sdk: Sdk, server: SdkServer) -> None:
    """The SDK wraps its rejection as it wraps every error of its client."""
    server.script.append(Cut(2))
    sdk.open(server.origin, Pipeline(CircuitBreaker(fail_max=1, failure_rate=None)))
    with pytest.raises((httpx2.TransportError, sdk.module.APIConnectionError)):
        sdk.stream([])
    with pytest.raises(sdk.module.APIConnectionError) as caught:
        sdk.ask()
    assert isinstance(caught.value.__cause__, CircuitOpen)
    assert len(server.seen) == 1


def test_stream_that_the_user_leaves_frees_its_connection(sdk: Sdk, server: SdkServer) -> None:
    """A stream that its user leaves early is no failure."""
    sdk.open(server.origin, Pipeline(CircuitBreaker(fail_max=1, failure_rate=None)))
    if sdk.runner is None:
        with sdk.create(stream=True) as stream:
            next(iter(stream))
    else:

        async def main() -> None:
            async with await sdk.create(stream=True) as events:
                await anext(aiter(events))

        sdk.runner.run(main())
    assert sdk.connections == []
    assert sdk.ask() == STORY


def test_attempt_that_times_out_is_the_sdks_timeout(sdk: Sdk, server: SdkServer) -> None:
    """The error is `APITimeoutError`, as with the SDK's own client."""
    server.held = True
    sdk.open(server.origin, Pipeline(Timeout(1)), body_timeout=0.2)  # a plain read ends with the second
    words: list[str] = []
    with pytest.raises((httpx2.TimeoutException, sdk.module.APITimeoutError)):
        sdk.stream(words)
    assert words == WORDS[:1]


# -- the SDK's own retries on ---------------------------------------------------------------------------------------


def test_requests_do_not_multiply_under_an_sdk_that_repeats(sdk: Sdk, server: SdkServer) -> None:
    """Two repetitions of the SDK's and two of ours are four requests, not eight: a repetition of the SDK is sent
    once."""
    server.script.extend([Refusal(500, {"retry-after-ms": "5"})] * 20)
    sdk.open(server.origin, retrying(), max_retries=2)
    with pytest.raises(sdk.module.InternalServerError):
        sdk.ask()
    assert [seen.headers["x-stainless-retry-count"] for seen in server.seen] == ["0", "0", "0", "1", "2"]


def test_requests_multiply_where_that_is_wanted(sdk: Sdk, server: SdkServer) -> None:
    """With `nested="multiply"` the SDK and the transport both repeat."""
    server.script.extend([Refusal(500, {"retry-after-ms": "5"})] * 20)
    sdk.open(server.origin, retrying(), max_retries=2, nested="multiply")
    with pytest.raises(sdk.module.InternalServerError):
        sdk.ask()
    assert len(server.seen) == 9


def test_pushback_is_kept_by_both(sdk: Sdk, server: SdkServer) -> None:
    """No request of the SDK or of ours comes too early."""
    server.script.extend([Refusal(429, {"retry-after-ms": "60"})] * 3)
    sdk.open(server.origin, retrying(2), max_retries=2)
    began = time.monotonic()
    assert sdk.ask() == STORY
    assert time.monotonic() - began >= 0.18
    assert len(server.seen) == 4


@pytest.mark.parametrize(
    ("header", "requests"),
    [
        ({"amz-sdk-request": "attempt=1; max=3"}, 1),
        ({"amz-sdk-request": "attempt=3; max=3"}, 1),
        ({"amz-sdk-request": "attempt=1; max=1"}, 3),
        ({"amz-sdk-request": "attempt=1"}, 3),
        ({"x-stainless-retry-count": "1"}, 1),
        ({"x-stainless-retry-count": "0"}, 3),
        ({}, 3),
    ],
    ids=str,
)
def test_other_callers_who_repeat_are_known_by_their_header(
    server: SdkServer, header: dict[str, str], requests: int
) -> None:
    """botocore sends its number of attempts from the first request on."""
    server.script.extend([Refusal(503)] * 3)
    with httpx2.Client(transport=Transport(retrying())) as client:
        assert client.get(f"{server.origin}/v1/models", headers=header).status_code == 503
    assert len(server.seen) == requests
