"""The tables of README.md and docs/performance.md, in Markdown, from committed runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from benchmarks.cost.highlights import HIGHLIGHTS, PEERS_OF

__all__ = ["TABLES", "Results"]

Row = Mapping[str, Any]
Results = Mapping[str, Mapping[str, Any]]
"""The committed JSON of each benchmark, by its name."""
OURS = "resilient"
SHOWN = 3
"""The most peers that a row of the README names."""


def highlights(found: Results) -> str:
    """The rows of the README, each with its fastest peers, and a sentence on the rows where peers are ahead."""
    lines, ahead = [], []
    for group, title in HIGHLIGHTS.items():
        ours = _ours(found["overhead"], group)
        peers = _peers(found["overhead"], group) + _peers(found["overhead"], PEERS_OF.get(group, ""))
        lines.append((title, _times(ours), _names(peers[:SHOWN])))
        if peers and peers[0]["multiple_x"] < ours["multiple_x"]:
            ahead.append(f"{title} ({', '.join(_name(each) for each in peers if _before(each, ours))})")
    said = "No peer is ahead in these rows." if not ahead else f"Peers are ahead in these rows: {'; '.join(ahead)}."
    table = _table(("", OURS, "fastest peers of the same run"), lines)
    return f"{table}\n\n{said}"


def conditions(found: Results) -> str:
    """A list of the runs, with the date, the machine and the versions of each."""
    lines = []
    for name, run in found.items():
        where = run["measured"]
        quick = ", with --quick" if where["quick"] else ""
        lines.append(
            f"- `{name}`: {where['date']}, {where['processor']} ({where['cores']} cores), {where['system']},"
            f" {where['python']}, commit {where['commit']}{quick}"
        )
    versions = found["overhead"]["measured"]["versions"]
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return "\n".join([*lines, "", f"Versions: {named}."])


def overhead(mode: str) -> Callable[[Results], str]:
    """Makes the table of one mode: our rows, the peers from the fastest, and the bar."""

    def made(found: Results) -> str:
        lines = []
        for group, rows in _groups(found["overhead"]):
            if not group.startswith(f"{mode}: ") or group.endswith("no policy"):
                continue
            peers = _names(_peers(found["overhead"], group))
            for row in (row for row in rows if row["ours"]):
                _, _, variant = str(row["name"]).partition(", ")
                title = f"… {variant}" if variant else group.removeprefix(f"{mode}: ")
                lines.append((title, _times(row), "" if variant else peers, _judged(row)))
        return _table(("", OURS, "peers", "bar"), lines)

    return made


def ahead(found: Results) -> str:
    """The rows of `overhead` in which a peer costs less than resilient."""
    lines = []
    for group, _ in _groups(found["overhead"]):
        if group.endswith("no policy"):
            continue
        ours, peers = _ours(found["overhead"], group), _peers(found["overhead"], group)
        names = ", ".join(f"{_name(each)} {_times(each)}{_note(each)}" for each in peers if _before(each, ours))
        if names:
            lines.append((group, _times(ours), names))
    return _table(("", OURS, "peers that are ahead"), lines) if lines else "None."


def transport(found: Results) -> str:
    """The processor time that each transport adds to a request over loopback."""
    (rows,) = (rows for group, rows in _groups(found["transport"]) if group == "loopback: httpx")
    return _added([row for row in rows if "added_percent" in row])


def middleware(found: Results) -> str:
    """The processor time that each middleware adds to a request under uvicorn."""
    first = next(iter(_groups(found["middleware"])))[1]
    return _added([row for row in first if "added_percent" in row])


def scale(found: Results) -> str:
    """Multiples by the number of other calls or keys, a row for each group."""
    lines = []
    sizes: list[str] = []
    for group, rows in _groups(found["scale"]):
        if "multiple_x" in rows[0]:
            sizes = [row["name"] for row in rows]
            growth = f"{rows[-1]['growth_x']:.2f} ({_interval(rows[-1], 'growth', 'x', '{:.2f}')})"
            lines.append((group, *(_times(row) for row in rows), growth))
    return _table(("calls or keys beside it", *sizes, "growth"), lines)


def memory(found: Results) -> str:
    """The bytes of one object, and the megabytes of 100,000 keys."""
    rows = [row for row in found["scale"]["figures"] if "object_bytes" in row]
    return _table(
        ("", "", "bytes", "MB of 100,000"),
        [
            (row["group"], _own(row), f"{row['object_bytes']:,}", f"{row['all_mb']:,.0f}" if "all_mb" in row else "")
            for row in rows
        ],
    )


def imports(found: Results) -> str:
    """Milliseconds of processor time and modules of each import."""
    rows = [row for row in found["startup"]["figures"] if "import_ms" in row]
    return _table(
        ("`import`", "ms", "modules"),
        [
            (_own(row), f"{row['import_ms']:.0f} ({_interval(row, 'import', 'ms', '{:.0f}')})", f"{row['modules']:,}")
            for row in sorted(rows, key=lambda row: float(row["import_ms"]))
        ],
    )


def decoration(found: Results) -> str:
    """Microseconds that each library takes to decorate a function, the fastest first."""
    lines = []
    for group, rows in _groups(found["startup"]):
        if "multiple_x" in rows[0]:
            ordered = sorted(rows, key=lambda row: float(row["call_ns"]))
            lines.append((group, ", ".join(f"{_own(row)} {row['call_ns'] / 1000:,.1f}" for row in ordered)))
    return _table(("", "µs"), lines)


def observe(found: Results) -> str:
    """What observation adds to a call of the stack of four, in bare awaits."""
    lines = []
    for group, rows in _groups(found["observe"]):
        for row in rows:
            if "added_x" in row:
                shown = row["name"] if row["name"] == group else f"{group}: {row['name']}"
                lines.append((shown, f"{row['added_x']:+.1f} ({_interval(row, 'added', 'x', '{:.1f}')})", _judged(row)))
    return _table(("", "added", "bar"), lines)


TABLES: Mapping[str, Callable[[Results], str]] = {
    "highlights": highlights,
    "conditions": conditions,
    "async": overhead("async"),
    "def": overhead("def"),
    "ahead": ahead,
    "transport": transport,
    "middleware": middleware,
    "scale": scale,
    "memory": memory,
    "imports": imports,
    "decoration": decoration,
    "observe": observe,
}
"""The function that makes each table, by the name in the document's marker."""


def _groups(run: Mapping[str, Any]) -> Iterator[tuple[str, list[Row]]]:
    for group, rows in groupby(run["figures"], key=lambda row: str(row["group"])):
        yield group, list(rows)


def _ours(run: Mapping[str, Any], group: str) -> Row:
    return next(row for row in run["figures"] if row["group"] == group and row["name"] == OURS)


def _peers(run: Mapping[str, Any], group: str) -> list[Row]:
    """The measured peers of a group, the fastest first."""
    rows = [row for row in run["figures"] if row["group"] == group and not row["ours"] and "multiple_x" in row]
    return sorted(rows, key=lambda row: float(row["multiple_x"]))


def _before(peer: Row, ours: Row) -> bool:
    return bool(peer["multiple_x"] < ours["multiple_x"])


def _name(row: Row) -> str:
    """The name of a peer without its version."""
    name, _, version = str(row["name"]).rpartition(" ")
    return name if version[:1].isdigit() else str(row["name"]).partition(", ")[0]


def _own(row: Row) -> str:
    return f"**{row['name']}**" if row["ours"] else str(row["name"])


def _note(row: Row) -> str:
    return f" ({row['note']})" if row["note"] else ""


def _names(rows: Iterable[Row]) -> str:
    return ", ".join(f"{_name(row)} {_times(row)}" for row in rows)


def _times(row: Row) -> str:
    multiple = row["multiple_x"]
    return f"{multiple:,.1f}" if multiple < 20 else f"{multiple:,.0f}"


def _interval(row: Row, stem: str, unit: str, form: str = "{:.2f}") -> str:
    return f"{form.format(row[f'{stem}_low_{unit}'])} to {form.format(row[f'{stem}_high_{unit}'])}"


def _judged(row: Row) -> str:
    """The value that is compared with the bar, with its interval; the bar; the verdict. Empty without a bar."""
    if row["bar"] is None:
        return ""
    (key, limit), *_ = row["bar"].items()
    stem, unit = key.removesuffix("_at_most").rsplit("_", 1)
    against = f" × {row['against']}" if row.get("against") else ""
    added = "adds " if stem == "added" else ""
    verdict = "at the bar" if row["at_bar"] else {"pass": "met", "miss": "**missed**"}[row["verdict"]]
    value = row.get(f"{stem}_{unit}")
    measured = "" if value is None else f"{added}{value:.2f} ({_interval(row, stem, unit)}), "
    return f"{measured}at most {limit:g}{against}: {verdict}"


def _added(rows: Sequence[Row]) -> str:
    return _table(
        ("", "processor time", "bar"),
        [
            (
                _own(row),
                f"{row['added_percent']:+.1f}% ({_interval(row, 'added', 'percent', '{:+.1f}')})",
                _judged(row),
            )
            for row in rows
        ],
    )


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)
