"""The timeline of `resilient.why`: what a person reads."""

from __future__ import annotations

import asyncio

import pytest

import resilient
from resilient import (
    Bulkhead,
    CircuitBreaker,
    Hedge,
    Keyed,
    Pipeline,
    Retry,
    Timeout,
    why,
)
from resilient.events import CallEnded
from resilient.observe.timeline import WIDTH, duration
from tests.observe.raising import raised

pytestmark = pytest.mark.filterwarnings("ignore::resilient.PipelineWarning")


def lines(text: str) -> str:
    """A text as `why` writes it, from one that is indented in a test."""
    first = text.strip("\n").splitlines()[0]
    indent = len(first) - len(first.lstrip())
    return "\n".join(line[indent:] for line in text.strip("\n").splitlines()).rstrip()


@pytest.mark.virtual_time
async def test_text_of_retries_that_were_spent() -> None:
    """The timeline has attempts, pauses and the time that was left."""

    @Pipeline(Timeout(10), Retry(3, wait=0.25), CircuitBreaker(), Timeout(2), name="users")
    async def get_user(user_id: int) -> None:
        await asyncio.sleep(0.012)
        raise ConnectionError("refused by 10.0.0.1")

    error = await raised(get_user, 7)
    assert str(why(error)) == lines(
        """
        ConnectionError: get_user failed in pipeline users
          retries ended: attempts spent (Retry, 3 attempts in 536 ms)
          9.46 s were left until its deadline

              0 ms  attempt 1          12 ms  ConnectionError
             12 ms  pause             250 ms
            262 ms  attempt 2          12 ms  ConnectionError
            274 ms  pause             250 ms
            524 ms  attempt 3          12 ms  ConnectionError
        """
    )
    assert repr(why(error)) == "<ConnectionError: get_user failed in pipeline users>"


@pytest.mark.virtual_time
async def test_text_of_an_open_circuit_has_its_evidence() -> None:
    """A refusal says which circuit, for which key, since when, and what opened it."""

    @Pipeline(Retry(3), Keyed(lambda: CircuitBreaker(None, fail_max=2), key=lambda shard: shard), name="shards")
    async def read(shard: str) -> None:
        raise ConnectionResetError(104, "reset by peer")

    first = await raised(read, "eu-1")
    assert "retries ended: attempt 3 was rejected: CircuitBreaker for eu-1 is open" in str(why(first))
    assert "(opened: 2 failures in a row)" in " ".join(str(why(first)).split())
    await asyncio.sleep(1)
    error = await raised(read, "eu-1")
    found = why(error).as_json()
    assert (found["ended"], found["policy"], found["key"]) == ("rejected", "CircuitBreaker", "eu-1")
    assert found["circuit"]["opened"] == "2 failures in a row"
    assert found["circuit"]["for"] == 5
    assert found["circuit"]["ago"] == pytest.approx(5 - found["retry_after"])
    assert found["calls"][0]["steps"] == []
    text = str(why(error)).splitlines()
    assert text[0] == "CircuitOpen: read was refused in pipeline shards for eu-1"
    assert text[1].startswith("  CircuitBreaker for eu-1 is open; try again in ")
    assert text[2].startswith("  the circuit opened ")
    assert text[2].endswith(" before, for 5 s: 2 failures in a row")


def test_isolated_circuit_has_neither_an_age_nor_an_end() -> None:
    """Only an operator ends it."""
    breaker = CircuitBreaker()
    breaker.isolate()
    error = None
    try:
        Pipeline(breaker).call(lambda: None)
    except resilient.CircuitOpen as caught:
        error = caught
    assert error is not None
    assert why(error).as_json()["circuit"] == {"opened": "by hand", "ago": None, "for": None}
    assert "  the circuit opened: by hand" in str(why(error)).splitlines()


@pytest.mark.virtual_time
async def test_text_of_a_timeout_has_the_attempts_before_it() -> None:
    """The Timeout tells when the first attempt began; its wait in a queue counts as such."""

    calls: list[int] = []

    @Pipeline(Timeout(2), Retry(9, wait=0.7), name="late")
    async def slow() -> None:
        calls.append(1)
        await asyncio.sleep(0.2 if len(calls) < 3 else 9)
        raise OSError("secret")

    error = await raised(slow)
    assert str(why(error)) == lines(
        """
        TimedOut: slow timed out in pipeline late
          Timeout of 2 s expired

              0 ms  attempt 1         200 ms  OSError
            200 ms  pause             700 ms
            900 ms  attempt 2         200 ms  OSError
             1.1 s  pause             700 ms
               2 s  Timeout              2 s  expired during attempt 3
        """
    )


@pytest.mark.virtual_time
async def test_timeout_in_a_queue_says_that_it_is_no_evidence() -> None:
    """The wait in the queue is in the timeline."""
    bulkhead = Bulkhead(1, queue=1)

    @Pipeline(bulkhead)
    async def hold() -> None:
        await asyncio.sleep(5)

    @Pipeline(Timeout(2), bulkhead, name="crowded")
    async def queued() -> None:
        raise AssertionError

    holder = asyncio.create_task(hold())
    await asyncio.sleep(0)
    error = await raised(queued)
    assert str(why(error)) == lines(
        """
        TimedOut: queued timed out in pipeline crowded
          Timeout of 2 s expired
          it counts as no evidence against the dependency, which did not have that whole
            time

               2 s  Timeout              2 s  expired during attempt 1, 2 s of it in
                                              local queues
        """
    )
    await holder


@pytest.mark.virtual_time
async def test_attempts_that_timed_out_have_the_text_of_their_timeout() -> None:
    """The Timeout of an attempt is no step of its own."""

    @Pipeline(Retry(2, wait=1), Timeout(0.5), name="users")
    async def hang() -> None:
        await asyncio.sleep(9)

    error = await raised(hang)
    assert str(why(error)) == lines(
        """
        TimedOut: hang timed out in pipeline users
          Timeout of 0.5 s expired
          retries ended: attempts spent (Retry, 2 attempts in 2 s)

              0 ms  attempt 1         500 ms  Timeout of 0.5 s expired
            500 ms  pause                1 s
             1.5 s  attempt 2         500 ms  Timeout of 0.5 s expired
        """
    )


@pytest.mark.virtual_time
async def test_first_attempt_has_its_duration_where_the_call_is_timed() -> None:
    """Without a gate that measures it: because a listener, or an exporter of durations, needs the time."""
    pipeline = Pipeline(Retry(2, wait=1), name="timed")

    @pipeline
    async def fails() -> None:
        await asyncio.sleep(0.25)
        raise OSError

    untimed = str(why(await raised(fails)))
    assert "      0 ms  attempt 1                 OSError" in untimed.splitlines()
    pipeline.listen(lambda event: None, CallEnded)
    timed = str(why(await raised(fails)))
    assert "      0 ms  attempt 1         250 ms  OSError" in timed.splitlines()
    assert "    250 ms  pause                1 s" in timed.splitlines()


@pytest.mark.virtual_time
async def test_copies_of_a_hedge_are_steps() -> None:
    """When each started, why, and how it ended."""

    @Pipeline(Hedge(0.02, copies=3), name="hedged")
    async def fails() -> None:
        await asyncio.sleep(0.05)
        raise OSError

    error = await raised(fails)
    assert str(why(error)) == lines(
        """
        OSError: fails failed in pipeline hedged

              0 ms  copy 2                    started: no answer yet
             20 ms  copy 3                    started: no answer yet
             30 ms  copy 1                    OSError
             50 ms  copy 2                    OSError
             70 ms  copy 3                    OSError
        """
    )


@pytest.mark.virtual_time
async def test_long_texts_stay_within_the_width() -> None:
    """Long names and long texts are folded."""
    key = "https://" + "very-long-host-name." * 3 + "example"

    @Pipeline(Keyed(lambda: CircuitBreaker(None, fail_max=1), key=lambda host: host), name="a-pipeline-" * 5)
    async def a_function_with_a_name_that_is_longer_than_most_names_are(host: str) -> None:
        raise OSError

    await raised(a_function_with_a_name_that_is_longer_than_most_names_are, key)
    text = str(why(await raised(a_function_with_a_name_that_is_longer_than_most_names_are, key)))
    assert max(map(len, text.splitlines())) <= max(WIDTH, len(key) + 10)
    assert " ".join(text.split()).count(key) >= 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.00004, "0.04 ms"),
        (0.0012, "1.2 ms"),
        (0.0994, "99 ms"),
        (0.9996, "1 s"),
        (1.25, "1.25 s"),
        (119, "119 s"),
        (120, "2 min"),
        (200.4, "3 min 20 s"),
    ],
)
def test_durations_are_written_as_people_write_them(seconds: float, text: str) -> None:
    """Each has a unit and few digits."""
    assert duration(seconds) == text
