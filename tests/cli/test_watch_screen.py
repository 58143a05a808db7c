"""The screen of `resilient watch`: what it shows, at any width and height, and without colours."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from resilient.cli.watch.board import EVENTS, Board
from resilient.cli.watch.reading import Line, Permits, PipelineState, Reading, SourceError
from resilient.cli.watch.screen import event_line, pipeline_line, screen
from resilient.cli.watch.sparkline import sparkline
from tests.hypothesis_settings import search

AT = 1764520000.0


def change(new: str, at: float = AT, pipeline: str = "users") -> Line:
    level = "warning" if new == "open" else "info"
    return Line(at, level, "CircuitChanged", pipeline, "db", f"closed -> {new}: why")


def refusal(at: float, count: int = 1) -> Line:
    return Line(at, "warning", "CallRejected", "users", "db", "refused a call", count)


USERS = PipelineState(
    in_flight=3,
    rate=41.25,
    bad=0.125,
    p50=0.0123,
    p99=1.5,
    retries=17,
    hedges=5,
    retry_rate=1.5,
    hedge_rate=0.0,
    circuits={"closed": 2, "open": 1},
    permits=[Permits("Bulkhead", 3, 50, 2)],
    tokens=8.5,
)


def board(*readings: Reading | SourceError) -> Board:
    made = Board("http://127.0.0.1:8000/live")
    for each in readings:
        made.take(each)
    return made


def shown(board: Board, width: int = 80, height: int | None = None, **options: object) -> list[str]:
    """The lines on a console without colours."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=str(options.get("encoding", "utf-8")))
    console = Console(file=stream, width=width, markup=False, highlight=False)
    return [line.rstrip() for line in screen(board, console, height=height).plain.split("\n")]


def test_screen_has_all_figures_in_80_columns() -> None:
    """Circuits, rate, failures, latencies and the trend; below them what else the pipeline has; then the events."""
    made = board(
        Reading(AT, {"users": PipelineState(rate=20.0)}, pid=4711),
        Reading(AT + 1, {"users": USERS, "orders": PipelineState()}, pid=4711, lines=[change("open")]),
    )
    lines = shown(made)
    assert lines[0].startswith("resilient watch  http://127.0.0.1:8000/live  pid 4711  ")
    assert lines[1:-1] == [
        "pipeline circuits              rate    bad     p50     p99 rates",
        "users    1 open 2 closed     41.2/s  12.5% 12.3 ms   1.5 s                    ▄█",
        "  3 in flight · retries 1.5/s · hedges 0/s · Bulkhead 3/50, 2 wait · budget 8.5",
        "orders   -                        -      -       -       -",
        "",
        "events",
    ]
    assert lines[-1].endswith(" users: closed -> open: why  db")


def test_wide_screen_has_a_trend_of_latencies_too() -> None:
    """From about 120 columns on."""
    made = board(*(Reading(AT + at, {"users": PipelineState(rate=10.0, p99=0.1 * at)}) for at in range(8)))
    title, row = shown(made, 140)[1:3]
    assert title.split()[-2:] == ["rates", "p99"]
    assert row.split()[-2:] == ["████████", "▁▂▃▄▅▆▇█"]
    assert cell_len(row) <= 140


@search(300)
@given(
    names=st.lists(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=40), max_size=6),
    width=st.integers(20, 200),
    height=st.none() | st.integers(1, 40),
    failing=st.booleans(),
)
def test_no_line_is_wider_or_higher_than_the_terminal(
    names: list[str], width: int, height: int | None, failing: bool
) -> None:
    """Names with wide characters too."""
    states = dict.fromkeys(names, USERS)
    made = board(Reading(AT, states, lines=[change("open", AT, name) for name in names]))
    if failing:
        made.take(SourceError("ConnectError: " + "x" * 300))
    lines = shown(made, width, height)
    assert all(cell_len(line) <= width for line in lines)
    assert height is None or len(lines) <= height


def test_pipelines_in_trouble_come_first_where_there_is_no_room_for_all() -> None:
    """And the number of the others is said."""
    states = {f"p{number:02}": PipelineState(circuits={"closed": 1}) for number in range(30)}
    states["p17"] = PipelineState(circuits={"open": 1})
    states["p23"] = PipelineState(error="KeyError: x")
    lines = shown(board(Reading(AT, states)), 80, 12)
    assert [line.split()[0] for line in lines[2:6:2]] == ["p23", "p17"]
    assert "  cannot be read: KeyError: x" in lines
    assert any(line.startswith("and 2") and line.endswith(" more") for line in lines)
    assert len(lines) <= 12


def test_pipelines_keep_their_order_where_there_is_room() -> None:
    """A table whose rows jump about cannot be read."""
    states = {"a": PipelineState(), "b": PipelineState(circuits={"open": 1})}
    assert [line.split()[0] for line in shown(board(Reading(AT, states)))[2:]] == ["a", "b"]


def test_source_that_does_not_answer_is_said_and_the_last_figures_stay() -> None:
    """With the time since when, and the reason."""
    made = board(
        Reading(AT, {"users": USERS}), SourceError("ConnectError: refused"), SourceError("ConnectError: other")
    )
    assert " trying again: ConnectError: other" in shown(made)[1]
    assert shown(made)[1].startswith("no answer since ")
    assert shown(made)[3].startswith("users ")
    made.take(Reading(AT, {"users": USERS}))
    assert not any("no answer" in line for line in shown(made))


def test_first_moments_and_an_empty_process_have_their_words() -> None:
    """Nothing looks like an empty screen."""
    assert shown(board())[1] == "waiting for the first answer ..."
    assert shown(board(Reading(AT, {})))[1] == "no pipeline with a name has been made yet"


def test_terminal_without_utf_8_gets_ascii() -> None:
    """No character that it cannot show."""
    made = board(Reading(AT, {"users": USERS}), Reading(AT, {"users": USERS}))
    assert all(line.isascii() for line in shown(made, encoding="latin-1"))


def test_modes_and_closed_pipelines_are_said_in_words() -> None:
    """What colours would say alone would be lost without colours."""
    states = {"a": PipelineState(mode="off"), "b": PipelineState(mode="once", closed=True)}
    states["c"] = PipelineState(rate_limits={"RateLimit": 3})
    lines = shown(board(Reading(AT, states)))
    assert lines[7] == "  RateLimit 3 tokens"
    assert lines[3] == "  switched off"
    assert lines[5] == "  closed: refuses new calls · mode once"


def test_markup_of_a_name_is_shown_as_it_is() -> None:
    """No text of the process is markup."""
    stream = io.StringIO()
    console = Console(file=stream, width=80, markup=True, force_terminal=True, color_system="standard")
    console.print(screen(board(Reading(AT, {"[red]a[/red]": PipelineState()})), console))
    assert "[red]a[/red]" in stream.getvalue()


def test_events_of_one_kind_are_one_line_while_they_go_on() -> None:
    """Changes of state have a line each, and stay although thousands of calls are refused."""
    made = board(
        Reading(AT, {}, lines=[change("open"), change("open"), refusal(AT, 3)]),
        *(Reading(AT + at, {}, lines=[refusal(AT + at, 100)]) for at in range(1, 200)),
        Reading(AT + 250, {}, lines=[refusal(AT + 250)]),
    )
    assert [(line.kind, line.count) for line in made.events] == [
        ("CircuitChanged", 1),
        ("CircuitChanged", 1),
        ("CallRejected", 19_903),
        ("CallRejected", 1),
    ]
    assert event_line(made.events[2]).endswith(" users (x19903): refused a call  db")


def test_events_are_bounded() -> None:
    """The latest are kept."""
    made = board(*(Reading(AT, {}, lines=[change(f"{number}")]) for number in range(3 * EVENTS)))
    assert len(made.events) == EVENTS
    assert made.events[-1].text == f"closed -> {3 * EVENTS - 1}: why"


def test_trends_grow_by_fresh_readings_only_and_go_with_their_pipeline() -> None:
    """A state that came because of an event has no new figures."""
    made = board(
        Reading(AT, {"a": PipelineState(rate=1), "b": PipelineState(rate=2)}),
        Reading(AT, {"a": PipelineState(rate=1)}, fresh=False),
        Reading(AT, {"a": PipelineState(rate=3)}),
    )
    assert {name: list(values) for name, values in made.rates.items()} == {"a": [1, 3]}


def test_pipeline_as_a_line_has_its_figures_in_words() -> None:
    """For logs and pipes."""
    line = pipeline_line("users", USERS, AT)
    assert line.split(" ", 1)[1] == (
        "users: 1 open 2 closed, rate 41.2/s, bad 12.5%, p50 12.3 ms, p99 1.5 s, 3 in flight, retries 1.5/s, "
        "hedges 0/s, Bulkhead 3/50, 2 wait, budget 8.5"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.000_488, "0.49 ms"),
        (0.001, "1 ms"),
        (0.00999, "9.99 ms"),
        (0.0123, "12.3 ms"),
        (0.4567, "457 ms"),
        (1, "1 s"),
        (12.345, "12.3 s"),
        (999, "999 s"),
    ],
)
def test_latency_fits_its_column(seconds: float, text: str) -> None:
    """No digit of one that can occur is cut off."""
    row = shown(board(Reading(AT, {"users": PipelineState(p50=seconds)})))[2]
    assert text in row


@pytest.mark.parametrize(
    ("values", "width", "bars"),
    [
        ([], 3, "   "),
        ([0, 0], 3, " ▁▁"),
        ([0, 1, 2, None, 7], 5, "▁▂▃ █"),
        ([1, 2, 3], 2, "▆█"),
        ([5], 0, ""),
    ],
)
def test_sparkline_is_between_0_and_the_greatest(values: list[float | None], width: int, bars: str) -> None:
    """So a rate that doubles looks like it."""
    assert sparkline(values, width) == bars
