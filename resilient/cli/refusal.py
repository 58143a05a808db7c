"""Errors of a command in one line on standard error, with the exit code."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NoReturn

import typer

__all__ = ["refuse", "reported"]


def refuse(message: str) -> NoReturn:
    """Print in one line the reason why the command does nothing, and exit with 2. Quoted parts of the message may come
    from any file."""
    line = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in " ".join(message.split()))
    typer.echo(f"resilient: {line if len(line) <= LONGEST else f'{line[:LONGEST]} ...'}", err=True)
    raise typer.Exit(2)


LONGEST = 2000
"""The most characters of a message."""


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Report in one line the errors that can end any command: Ctrl-C, files that cannot be written, a lack of
    memory."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("resilient: stopped", err=True)
        raise typer.Exit(130) from None
    except OSError as error:
        refuse(f"{error.filename or 'standard output'}: {error.strerror or error}")
    except MemoryError:
        refuse("this takes more memory than there is")
