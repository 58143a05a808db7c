"""The entry point of the `resilient` command.

Exit codes: 0 success, 1 a missed objective or limit, 2 bad arguments or a missing package, 130 Ctrl-C.
"""

from __future__ import annotations

import io
import sys
from typing import TextIO, cast

from resilient.cli.extras import without_typer
from resilient.cli.standard_output import Output

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit with its code."""
    stdout, stderr = (Output(each or io.StringIO()) for each in (sys.stdout, sys.stderr))  # None: it was closed before
    sys.stdout, sys.stderr = cast("TextIO", stdout), cast("TextIO", stderr)
    try:
        try:
            _run()
        finally:
            stdout.flush()
    except OSError as error:
        stdout.discard()
        print(f"resilient: standard output: {error.strerror or error}", file=sys.stderr)
        raise SystemExit(2) from None


def _run() -> None:
    try:
        import typer  # noqa: F401
    except ModuleNotFoundError:
        code, text = without_typer(sys.argv[1:])
        print(text, file=sys.stderr if code else sys.stdout)
        raise SystemExit(code) from None
    from resilient.cli.app import app

    app(prog_name="resilient")
