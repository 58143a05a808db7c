"""The extra that each command needs, and the command line where `typer` is not installed.

Without `typer` the command still prints its help and its version; a command names the extra that it needs.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

__all__ = [
    "COMMANDS",
    "EXTRAS",
    "SUMMARY",
    "Command",
    "install",
    "lacks_any",
    "missing_extra",
    "version_line",
    "without_typer",
]

EXTRAS = "All commands need the extra cli; simulate --plot needs the extra lab, demo and watch --demo the extra demo."
SUMMARY = "Resilience for calls: retry, circuit breaker, bulkhead, timeout."


@dataclass(frozen=True, slots=True)
class Command:
    """A command, as the help without `typer` shows it.

    Attributes:
        summary: what it does, in one line.
        extra: that it needs.
    """

    summary: str
    extra: str


COMMANDS = {
    "dashboards": Command("Write dashboards for Grafana, and alerts for Prometheus.", "cli"),
    "demo": Command("Call failing servers with a plain client and with a guarded one, side by side.", "demo"),
    "explain": Command("Show the worst case of a pipeline, without running it.", "cli"),
    "simulate": Command("Try pipelines in a scripted outage, in virtual time: minutes of failure in seconds.", "cli"),
    "watch": Command("Watch the pipelines of a running process: circuits, rates, latencies, limits, events.", "cli"),
}


def install(extra: str) -> str:
    """The shell command that installs an extra."""
    return f'pip install "resilient-middleware[{extra}]"'


def missing_extra(extra: str) -> str:
    """The message of a command whose extra is not installed."""
    return f"resilient: this command needs more packages: {install(extra)}"


def lacks_any(packages: Sequence[str]) -> bool:
    """Whether one of these packages is not installed."""
    return not all(map(importlib.util.find_spec, packages))


def version_line() -> str:
    """The name and the version of the distribution."""
    try:
        return f"resilient-middleware {version('resilient-middleware')}"
    except PackageNotFoundError:  # a checkout that is not installed
        return "resilient-middleware (not installed)"


def without_typer(arguments: Sequence[str]) -> tuple[int, str]:
    """The exit code and the text of a command line where `typer` is not installed.

    Help and version exit with 0. Anything else exits with 2, and the text is an error message that names the extra.
    """
    if arguments[:1] == ["--version"]:
        return 0, version_line()
    named = next((each for each in arguments if each in COMMANDS), None)
    if not arguments or "--help" in arguments:
        return 0 if arguments else 2, _help(named)
    return 2, missing_extra("cli" if named is None else COMMANDS[named].extra)


def _help(named: str | None) -> str:
    if named is None:
        lines = [f"  {name:<10} {each.summary}\n             {install(each.extra)}" for name, each in COMMANDS.items()]
        listed = "\n".join(lines)
        return f"Usage: resilient COMMAND\n\n{SUMMARY}\n\nCommands, and what each needs:\n{listed}"
    command = COMMANDS[named]
    return (
        f"Usage: resilient {named}\n\n{command.summary}\n\n"
        f"It needs more packages, and then shows its options here: {install(command.extra)}"
    )
