"""The board on a terminal of any width from 40 columns on, or as lines where there is no terminal.

Everything that colours say is said by words too. No text of the watched process is markup.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from resilient.cli.watch.board import Board
from resilient.cli.watch.reading import Line, PipelineState
from resilient.cli.watch.sparkline import sparkline

__all__ = ["event_line", "pipeline_line", "screen"]

STYLES = {"closed": "green", "half-open": "yellow", "open": "bold red", "isolated": "bold red"}
"""The styles of the states of circuits."""

WORST_FIRST = ("isolated", "open", "half-open")
"""The states of circuits that come before "closed"."""

COLUMNS = (("circuits", 17), ("rate", 8), ("bad", 6), ("p50", 7), ("p99", 7))
"""The columns after the name, with their widths. What is left is for the trends."""

TREND = 40
"""The most columns of the trend of rates. On wider terminals there is one of p99, too."""

LEAST_EVENTS, MOST_EVENTS = 3, 12
"""The least lines for events on a terminal with many pipelines; and the most where the height is not bounded."""

NAMES = 28
"""The most columns of a name."""


def screen(board: Board, console: Console, *, height: int | None = None) -> Text:
    """Return the board as lines that fit the width of the console, and `height` lines; None: as many as there are."""
    width, plain = console.width, not (console.encoding or "").lower().startswith("utf")
    lines = [_title(board), *_problem(board)]
    reading = board.reading
    if reading is None:
        lines.append(Text("waiting for the first answer ..." if board.failure is None else "", style="dim"))
        return _joined(lines[:height], width)
    if not reading.pipelines:
        lines.append(Text("no pipeline with a name has been made yet"))
    else:
        room = None if height is None else height - len(lines) - 1 - (LEAST_EVENTS + 1 if board.events else 0)
        lines += _table(board, reading.pipelines, width, room, plain)
    left = MOST_EVENTS if height is None else height - len(lines) - 1
    if board.events and left > 0:
        if height is None or left > MOST_EVENTS:
            lines.append(Text())
            left -= 1
        lines.append(Text("events", style="bold"))
        lines += map(_event, board.events[-left:])
    return _joined(lines[:height], width)


def pipeline_line(name: str, state: PipelineState, at: float) -> str:
    """Return one pipeline as one line of text, for logs."""
    figures = [
        _circuits(state) or "no circuit",
        *(f"{title} {value}" for title, value in _figures(state) if value != "-"),
        *_details(state),
    ]
    return f"{_clock(at)} {name}: {', '.join(figures)}"


def event_line(line: Line) -> str:
    """Return an event as one line of text, for logs."""
    return _event(line).plain


# -- parts ----------------------------------------------------------------------------------------------------------


def _title(board: Board) -> Text:
    reading = board.reading
    said = [board.source]
    if reading is not None:
        said += [*([] if reading.pid is None else [f"pid {reading.pid}"]), _clock(reading.at)]
    return Text.assemble(("resilient watch", "bold"), "  ", "  ".join(said))


def _problem(board: Board) -> Iterable[Text]:
    if board.failure is not None:
        since = f"no answer since {_clock(board.failing_since)}"
        yield Text(f"{since}, trying again: {board.failure}", style="bold red")


def _table(
    board: Board, pipelines: dict[str, PipelineState], width: int, room: int | None, plain: bool
) -> Iterable[Text]:
    names = list(pipelines)
    most = len(names) if room is None else max(1, (room - 1) // 2)
    hidden = max(0, len(names) - most)
    if hidden:  # the troubled ones first
        names.sort(key=lambda name: (-_trouble(pipelines[name]), name))
    names = names[:most]
    first = min(NAMES, max(map(cell_len, (*names, "pipeline"))))
    columns = list(COLUMNS)
    while first + sum(size + 1 for _, size in columns) > width and len(columns) > 1:
        columns.pop()  # narrow terminals lose the columns at the right
    left = width - first - sum(size + 1 for _, size in columns)
    trends = [min(TREND, left - 1)] if left <= TREND + 20 else [TREND, min(TREND, left - TREND - 2)]
    titles = [(title, size, "bold") for title, size in columns]
    yield _row((_padded("pipeline", first), "bold"), titles, list(zip(("rates", "p99"), trends, strict=False)))
    for name in names:
        state = pipelines[name]
        known = (board.rates.get(name, ()), board.latencies.get(name, ()))
        bars = [
            (sparkline(list(each), size, ascii_only=plain), size) for each, size in zip(known, trends, strict=False)
        ]
        style = "dim" if board.failure is not None else ""
        cells = [(_circuits(state) or "-", COLUMNS[0][1], style or _style(state))]
        figures = dict(_figures(state))
        for title, size in columns[1:]:
            trouble = "bold red" if title == "bad" and (state.bad or 0) >= 0.1 else ""
            cells.append((figures[title], size, style or trouble))
        yield _row((_padded(name, first), style or "bold"), cells, bars)
        details = (", " if plain else " · ").join(_details(state))
        if details:
            yield Text(f"  {details}", style="red" if state.error else "dim")
    if hidden:
        yield Text(f"and {hidden} more", style="dim")


def _row(head: tuple[str, str], cells: Sequence[tuple[str, int, str]], trends: Sequence[tuple[str, int]]) -> Text:
    row = Text.assemble(head)
    for at, (value, width, style) in enumerate(cells):
        row.append(" ")
        row.append(_padded(value, width, right=at > 0), style)
    for value, width in trends:
        if width > 2:
            row.append(" ")
            row.append(_padded(value, width), "cyan")
    row.rstrip()
    return row


def _figures(state: PipelineState) -> list[tuple[str, str]]:
    return [
        ("rate", "-" if state.rate is None else f"{_short(state.rate)}/s"),
        ("bad", "-" if state.bad is None else f"{100 * state.bad:.3g}%"),
        ("p50", _seconds(state.p50)),
        ("p99", _seconds(state.p99)),
    ]


def _details(state: PipelineState) -> list[str]:
    """The further figures of a pipeline, each with its words."""
    if state.error:
        return [f"cannot be read: {state.error}"]
    said = [] if state.in_flight is None else [f"{state.in_flight} in flight"]
    if state.closed:
        said.append("closed: refuses new calls")
    if state.mode != "on":
        said.append(f"switched {state.mode}" if state.mode == "off" else f"mode {state.mode}")
    if state.retries is not None:
        said.append(_extra("retries", state.retries, state.retry_rate))
    if state.hedges is not None:
        said.append(_extra("hedges", state.hedges, state.hedge_rate))
    for each in state.permits:
        waiting = f", {each.queued} wait" if each.queued else ""
        said.append(f"{each.policy} {each.in_use}/{each.limit}{waiting}")
    said += [f"{policy} {_short(tokens)} tokens" for policy, tokens in state.rate_limits.items()]
    if state.tokens is not None:
        said.append(f"budget {_short(state.tokens)}")
    return said


def _extra(kind: str, count: int, rate: float | None) -> str:
    return f"{kind} {count}" if rate is None else f"{kind} {_short(rate)}/s"


def _circuits(state: PipelineState) -> str:
    """The circuits in words, those in trouble first: "open", or "1 open 2 closed"."""
    states = sorted(state.circuits.items(), key=lambda item: (_rank(item[0]), item[0]))
    if len(states) == 1 and states[0][1] == 1:
        return states[0][0]
    return " ".join(f"{count} {name}" for name, count in states)


def _rank(name: str) -> int:
    return WORST_FIRST.index(name) if name in WORST_FIRST else len(WORST_FIRST)


def _style(state: PipelineState) -> str:
    worst = min(state.circuits, key=_rank, default="")
    return STYLES.get(worst, "")


def _trouble(state: PipelineState) -> float:
    """How much a pipeline needs to be seen."""
    broken = sum(count for name, count in state.circuits.items() if name in WORST_FIRST)
    return (10 if state.error or state.closed else 0) + (5 if broken else 0) + (state.bad or 0)


def _event(line: Line) -> Text:
    """Return an event: its time, its pipeline, how often and what happened, and last its policy, which may be long."""
    style = "bold red" if line.is_change and line.level == "warning" else "yellow" if line.level == "warning" else ""
    count = f" (x{line.count})" if line.count > 1 else ""
    subject = f"{line.pipeline}{count}".strip()
    said = f"{_clock(line.at)} {subject}{': ' * bool(subject)}{line.text}"
    return Text.assemble((said, style), (f"  {line.policy}", "dim"))


def _clock(at: float) -> str:
    try:
        return time.strftime("%H:%M:%S", time.localtime(at))
    except (ValueError, OverflowError, OSError):  # the watched process has sent it
        return "--:--:--"


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    if value >= 1:
        return f"{value:.3g} s"
    return f"{1000 * value:.3g} ms" if value >= 0.001 else f"{1000 * value:.2f} ms"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _padded(text: str, width: int, *, right: bool = False) -> str:
    """Return a text of exactly this many columns."""
    missing = width - cell_len(text)
    if missing >= 0:
        return " " * missing + text if right else text + " " * missing
    return set_cell_size(text, max(0, width - 1)) + "~" * (width > 0)


def _joined(lines: Sequence[Text], width: int) -> Text:
    for line in lines:
        line.truncate(width, overflow="crop")
    return Text("\n").join(lines)
