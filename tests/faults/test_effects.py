"""Every fault with every option has the same effect in each place: in the policy Chaos, under chaos transports, in a
scenario, and in the demo; or it is refused there, in one line. docs/chaos.md has the table.

The tests compare how and when a request ends for its caller, and how a classifier judges it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path

import pytest

import resilient.faults
from resilient import Pipeline, Retry
from resilient.faults import (
    KINDS,
    Crash,
    DrippingBody,
    Errors,
    Fault,
    Latency,
    PacketLoss,
    Partition,
    Reset,
    Results,
    Slowness,
    Stall,
    TruncatedBody,
)
from resilient.faults.exceptions import LOST
from tests.faults.places import BODY, PLACES, WORK, Probe, Seen

DOCS = Path(__file__).parents[2] / "docs" / "chaos.md"


@dataclass(frozen=True)
class Row:
    """A fault, what becomes of a request that meets it, and where it is refused.

    Args:
        seconds: until the request ends, by the moment at which it was sent; a number: always so many.
        repeat, asks: whether its pipeline is told that repeating may help, and after how many seconds.
        refused: by place, what the refusal says.
    """

    fault: Fault
    how: str = "answer"
    seconds: float | Callable[[float], float] = 0.0
    repeat: bool = True
    asks: float | None = None
    refused: Mapping[str, str] = field(default_factory=dict)


def no_kind(*places: str) -> dict[str, str]:
    """It is refused as a kind of fault that these places do not have."""
    return dict.fromkeys(places, r"faults?\[0\] must be one of .*, got ")


class Busy(Exception):
    """An exception of the user's client."""


def many(message: str) -> Exception:
    """An exception of the user's task group, made by a function."""
    return ExceptionGroup(message, [OSError(message), Busy(message)])


SCENARIOS = ("scenario", "HTTP scenario")
NETWORK = no_kind("demo")
BODIES = no_kind("chaos", *SCENARIOS, "demo")
NO_ERROR = {"demo": r"fault\[0\] has error=.*, but the errors of a server are statuses: give it status="}
NO_STATUS = {"chaos": r"fault\[0\] has status=.*, which only HTTP has: give it error= here"}
NO_HASTE = dict.fromkeys(("chaos", "httpx", "httpx2"), r"fault\[0\] must have a factor of 1 or more here, got 0.5")
NO_END = {"demo": r"fault\[0\] must have an end, or its requests are never answered"}
NO_ONE = {"demo": "crash must have the number of one server as its targets"}
NO_RESTART = {"demo": "crash must have an end, when the server is replaced"}
NO_KEYS = {"demo": r"fault\[0\].targets must be numbers of servers, got \('2',\)"}
NO_SERVER_KEYS = dict.fromkeys(SCENARIOS, r"faults\[0\].targets must be numbers of servers, got '2'")

BASES = [
    Row(Errors(), "error 503"),
    Row(Results(value=7), "result 7", repeat=False, refused=no_kind("httpx", "httpx2", *SCENARIOS, "demo")),
    Row(Latency(low=1, high=1), "answer", WORK + 1, repeat=False),
    Row(Slowness(factor=3), "answer", 3 * WORK, repeat=False),
    Row(Stall(end=20), "answer", lambda at: 20 - at + WORK, repeat=False),
    Row(Crash(), "refused", refused=NO_ONE),
    Row(Partition(), "silence", LOST, refused=NETWORK),
    Row(PacketLoss(share=1), "silence", LOST, refused=NETWORK),
    Row(Reset(), "reset", refused=NETWORK),
    Row(TruncatedBody(), "cut", WORK, refused=BODIES),
    Row(DrippingBody(pause=0.25), "answer", WORK + 0.25 * len(BODY), repeat=False, refused=BODIES),
]
"""Each kind, with as little said as may be."""

MORE = [
    *(Row(Errors(status=status), f"error {status}", refused=NO_STATUS) for status in (408, 429, 500, 503)),
    *(Row(Errors(status=status), f"error {status}", repeat=False, refused=NO_STATUS) for status in (400, 404)),
    Row(Errors(retry_after=5), "error 503", asks=5),
    Row(Errors(retry_after=0), "error 503", asks=0),
    Row(Errors(retry_after=2.5, status=429), "error 429", asks=2.5, refused=NO_STATUS),
    Row(Errors(retry_after=1_500_000, status=500), "error 500", asks=1_500_000, refused=NO_STATUS),
    Row(Errors(retry_after=5, status=404), "error 404", repeat=False, refused=NO_STATUS),
    Row(Errors(error=Busy), "Busy", refused=NO_ERROR),
    Row(Errors(error=OSError), "OSError", refused=NO_ERROR),
    Row(Errors(error="httpx:ConnectError"), "refused", refused=NO_ERROR),
    Row(Errors(error=TypeError), "TypeError", repeat=False, refused=NO_ERROR),
    Row(Errors(error=many), "ExceptionGroup", refused=NO_ERROR),
    Row(Errors(error=Busy, retry_after=5), "Busy", asks=5, refused=NO_ERROR),
    Row(Errors(error="OSError", retry_after=5), "OSError", asks=5, refused=NO_ERROR),
    Row(Errors(error=many, retry_after=5), "ExceptionGroup", asks=5, refused=NO_ERROR),
    Row(Results(call=lambda key: key + 1), "result 2", repeat=False, refused=BASES[1].refused),
    Row(Slowness(factor=0.5), "answer", WORK / 2, repeat=False, refused=NO_HASTE),
    Row(Stall(), "silence", LOST, refused=NO_END),
    Row(Crash(end=20), "refused", refused=NO_ONE),
    Row(Crash(targets=2), "refused", refused=NO_RESTART),
    Row(Crash(start=5, end=10, targets=2), "refused"),
    Row(Reset(phase="connect"), "refused", refused=NETWORK),
    Row(TruncatedBody(keep=3), "cut", WORK, refused=BODIES),
    Row(DrippingBody(piece=5, pause=1), "answer", WORK + 2, repeat=False, refused=BODIES),
]
"""The options that are not common to all kinds, and what they are together."""


def in_time(row: Row) -> Row:
    """The fault, for five seconds."""
    if not isinstance(row.fault, Stall):
        return replace(row, fault=replace(row.fault, start=5, end=10))
    return replace(row, fault=Stall(start=5, end=10), seconds=lambda at: 10 - at + WORK)


def of_server(row: Row) -> Row:
    """The fault, for the second server only (in `Chaos`: for the key 2)."""
    refused = NO_RESTART if isinstance(row.fault, Crash) else row.refused
    return replace(row, fault=replace(row.fault, targets=2), refused=refused)


def of_key(row: Row) -> Row:
    """The fault, for one key only."""
    refused = NO_KEYS | (NO_ONE if isinstance(row.fault, Crash) else {}) | dict(row.refused)
    if isinstance(row.fault, Crash | Slowness | Stall):
        refused |= NO_SERVER_KEYS
    return replace(row, fault=replace(row.fault, targets="2"), refused=refused)


ROWS = [*BASES, *MORE, *(change(row) for row in BASES for change in (in_time, of_server, of_key))]


def said(row: Row) -> str:
    return repr(row.fault.as_json())


@pytest.mark.parametrize("row", ROWS, ids=said)
def test_fault_has_the_same_effect_everywhere_or_is_refused(row: Row) -> None:
    """Requests are sent before it, at its start, during it, at its end and after it, to targets and to others; some are
    in progress when it starts or ends."""
    fault = row.fault
    moments = {0.0, fault.start, fault.start + 2.5}
    if fault.end:
        moments |= {fault.end - 1, fault.end, fault.end + 5}
    if fault.start and not isinstance(fault, Crash | Partition):  # which take away what a server has
        moments.add(fault.start - 1)
    probes = [Probe(at, key) for at in sorted(moments) for key in ((1, 2) if fault.targets else (1,))]
    keys = str if "2" in fault.targeted else int
    for name, place in PLACES.items():
        refusal = row.refused.get(name)
        if refusal is not None:
            with pytest.raises((TypeError, ValueError), match=refusal) as caught:
                place.seen((fault,), probes, keys)
            assert "\n" not in str(caught.value)
            continue
        thrift = place.thrift if isinstance(fault, Errors) else 0.0
        expected = []
        for probe in probes:
            if fault.start <= probe.at < (fault.end or LOST) and (not fault.targets or probe.key == 2):
                seconds = row.seconds(probe.at) if callable(row.seconds) else row.seconds
                expected.append(Seen(row.how, pytest.approx(seconds + thrift), row.repeat, row.asks))
            else:
                expected.append(Seen("answer", WORK))
        assert place.seen((fault,), probes, keys) == expected, name


def test_every_option_of_every_kind_has_its_row() -> None:
    """A new kind or option without one fails here."""
    without = []
    for kind in KINDS.values():
        rows = [row.fault for row in ROWS if type(row.fault) is kind]
        for option in fields(kind):
            if option.name == "share":  # of which there is a test of its own
                continue
            if option.default is not MISSING and all(getattr(row, option.name) == option.default for row in rows):
                without.append(f"{kind.__name__}.{option.name}")
        assert rows, kind
    assert without == []


SHARED = [row for row in BASES if any(option.name == "share" for option in fields(row.fault))]


@pytest.mark.parametrize("row", SHARED, ids=said)
def test_share_is_the_same_everywhere(row: Row) -> None:
    """A share of 0.3 hits about three in ten of 300 requests; a share of 0 hits none, and a scenario refuses it."""
    probes = [Probe(0.0, 1)] * 300
    for name, place in PLACES.items():
        if name in row.refused:
            continue
        some = [seen for seen in place.seen((replace(row.fault, share=0.3),), probes) if seen != Seen("answer", WORK)]
        assert 0.2 < len(some) / 300 < 0.4, name
        assert {seen.how for seen in some} == {row.how}, name
        if name in SCENARIOS:
            with pytest.raises(ValueError, match=r"faults\[0\].share must be more than 0"):
                place.seen((replace(row.fault, share=0),), probes)
        else:
            assert place.seen((replace(row.fault, share=0),), probes[:20]) == [Seen("answer", WORK)] * 20, name


def test_latency_is_as_likely_anywhere_between_low_and_high() -> None:
    """Its mean is in the middle, and it keeps its bounds."""
    for name, place in PLACES.items():
        late = [seen.seconds - WORK for seen in place.seen((Latency(low=1, high=3),), [Probe(0.0, 1)] * 300)]
        assert 1 <= min(late) < 1.1, name
        assert 2.9 < max(late) <= 3.000001, name
        assert sum(late) / 300 == pytest.approx(2, abs=0.15), name


@pytest.mark.parametrize("row", [row for row in MORE if isinstance(row.fault, Errors) and row.asks == 5], ids=said)
def test_retry_waits_for_as_long_as_a_fault_asks(row: Row) -> None:
    """The second attempt starts after the pause, when the fault is over."""
    for name, place in PLACES.items():
        if name in row.refused:
            continue
        fault, pipeline = replace(row.fault, end=4), Pipeline(Retry(attempts=2, wait=0))
        assert place.seen((fault,), [Probe(0.0, 1)], pipeline=pipeline) == [
            Seen("answer", pytest.approx(5 + WORK + place.thrift))
        ], name


@pytest.mark.parametrize(
    ("faults", "how", "seconds"),
    [
        ((Latency(low=1, high=1), Latency(low=2, high=2)), "answer", 3 + WORK),
        ((Slowness(factor=2), Slowness(factor=3)), "answer", 6 * WORK),
        ((Stall(end=8), Stall(end=20), Stall(end=9)), "answer", 20 + WORK),
        ((Stall(end=8), Slowness(factor=3), Latency(low=1, high=1)), "answer", 8 + 3 * WORK + 1),
        ((Errors(retry_after=5), Errors(retry_after=9)), "error 503", 0),
        ((Latency(low=1, high=1), Errors(retry_after=5)), "error 503", 1),
        ((Stall(end=8), Errors(retry_after=5)), "error 503", 8),
    ],
    ids=lambda value: "+".join(each.kind for each in value) if isinstance(value, tuple) else "",
)
def test_several_faults_at_a_time_add_up_alike_everywhere(faults: tuple[Fault, ...], how: str, seconds: float) -> None:
    """Latencies add up, slowness factors multiply, the stall that ends last counts, and of errors the first one."""
    failing = how != "answer"
    for name, place in PLACES.items():
        late = pytest.approx(seconds + (place.thrift if failing else 0))
        assert place.seen(faults, [Probe(0.0, 1)]) == [Seen(how, late, failing, 5 if failing else None)], name


COLUMNS = ("chaos", "httpx", "scenario", "demo")


def test_docs_say_where_each_fault_is_refused() -> None:
    """Each row of the page's table is one of the rows compared here, and each kind has one."""
    documented = re.findall(r"^\| `(\w+\(.*?\))`[^|]*\| (.*) \|$", DOCS.read_text(), re.MULTILINE)
    kinds = set()
    for fault, cells in documented:
        (row,) = [row for row in ROWS if row.fault == eval(fault, dict(vars(resilient.faults)))]
        kinds.add(type(row.fault))
        refused = [place for place, cell in zip(COLUMNS, cells.split(" | "), strict=True) if cell == "refused"]
        assert refused == [place for place in COLUMNS if place in row.refused], fault
    assert kinds == set(KINDS.values())
