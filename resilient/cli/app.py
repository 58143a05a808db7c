"""The command line as a `typer.Typer`: its commands, `--help` and `--version`."""

from __future__ import annotations

from typing import Annotated

import typer

from resilient.cli.dashboards import dashboards
from resilient.cli.demo import demo
from resilient.cli.explain import explain
from resilient.cli.extras import EXTRAS, SUMMARY, version_line
from resilient.cli.simulate import simulate
from resilient.cli.watch.command import watch

__all__ = ["app"]

app = typer.Typer(
    help=SUMMARY,
    epilog=EXTRAS,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # help and errors as plain lines, also in logs
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(version_line())
        raise typer.Exit


@app.callback(help=SUMMARY, epilog=EXTRAS)
def _common(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Define the options that stand before the name of a command, as `--version`."""


for command in (dashboards, demo, explain, simulate, watch):
    app.command()(command)
