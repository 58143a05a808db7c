"""Measurements over loopback: blocks in pairs, and the server's process. No times are judged."""

from __future__ import annotations

import os
import random

import httpx
import pytest

from benchmarks.harness import loopback
from benchmarks.harness.loopback import Block, Paired


def test_ratio_is_taken_to_the_plain_blocks_around() -> None:
    """A machine that slows down by half between two blocks changes no ratio."""
    paired = Paired()
    paired.add(Block(110, 200), Block(100, 150), Block(100, 150))
    paired.add(Block(330, 200), Block(200, 150), Block(400, 150))
    paired.add(Block(210, 200), Block(200, 150), Block(200, 150))

    assert paired.values()["added_percent"] == pytest.approx(10)
    assert paired.values()["request_cpu_ns"] == 210
    assert paired.values()["requests_per_s"] == 5_000_000


def test_blocks_of_several_processes_are_pooled() -> None:
    """The added processor time is the median over all their pairs."""
    one, other = Paired([Block(110, 1)], [1.1, 1.1]), Paired([Block(130, 1)], [1.3])
    assert Paired.pooled([one, other]).values()["pairs"] == 3
    assert Paired.pooled([one, other]).added() == pytest.approx(0.1)


async def test_each_guarded_block_is_between_two_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judged client has more blocks, and the order is drawn anew in each round."""
    order = []

    async def block(client: str, url: str, requests: int) -> Block:
        order.append(client)
        return Block(2 if client == "judged" else 1, 1)

    monkeypatch.setattr(loopback, "measure", block)
    plan = loopback.Plan(rounds=20, requests=1, judged_blocks=2)
    clients = {"judged": "judged", "other": "other"}
    base, found = await loopback.compare("plain", clients, ("judged",), "", plan, random.Random(1))

    run = order[3:]  # after one warm-up block of each
    assert run[0::2] == ["plain"] * 61
    guarded = run[1::2]
    assert (guarded.count("judged"), guarded.count("other")) == (40, 20)
    assert len({tuple(guarded[at : at + 3]) for at in range(0, 60, 3)}) == 3
    assert set(found["judged"].ratios) == {2}
    assert set(found["other"].ratios) == {1}
    assert len(base.blocks) == 61


async def test_rounds_end_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first round, no further one starts, so a busy machine does not delay the report."""

    async def block(client: str, url: str, requests: int) -> Block:
        return Block(1, 1)

    monkeypatch.setattr(loopback, "measure", block)
    plan = loopback.Plan(rounds=1000, requests=1, judged_blocks=2, seconds=0)
    _, found = await loopback.compare("plain", {"judged": "judged"}, ("judged",), "", plan, random.Random(1))

    assert found["judged"].values()["pairs"] == 2


async def test_answer_that_is_not_200_ends_the_measurement() -> None:
    """Failing requests would have another cost."""
    transport = httpx.MockTransport(lambda request: httpx.Response(503))
    async with httpx.AsyncClient(transport=transport) as client:
        with pytest.raises(RuntimeError, match="2 of 2 requests were not answered with 200"):
            await loopback.measure(client, "http://localhost/", 2)


def test_server_answers_from_a_process_of_its_own_and_ends_with_the_context() -> None:
    """The process ends when its standard input closes."""
    with loopback.Server() as server:
        assert httpx.get(server.url).json()["id"] == 17
        assert server._process.poll() is None

    assert server._process.poll() is not None
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url)


def test_server_keeps_off_the_core_of_the_client() -> None:
    """If there is another core, and the process can choose."""
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("processes cannot choose their cores here")
    cores = os.sched_getaffinity(0)
    with loopback.Server() as server:
        server.avoid(min(cores))
        left = os.sched_getaffinity(server._process.pid)

    assert left == (cores - {min(cores)} or cores)
