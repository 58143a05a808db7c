"""Standard output whose reader may leave before the end."""

from __future__ import annotations

import os
from collections.abc import Callable
from io import TextIOWrapper
from typing import Any, TextIO

__all__ = ["Output"]


class Output:
    """A stream whose reader may leave: later output is discarded, and is no error.

    A command that has printed half of its table to `head -1` still writes its files, and exits with its verdict.
    Characters that the encoding of the stream lacks are shown as question marks.

    Attributes:
        reader_left: whether output is discarded. A command without an end stops then.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.reader_left = False
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")

    def write(self, text: str) -> int:
        """Write text, as a stream does. Raises `OSError`, but not for a closed pipe."""
        self._unless_closed(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Write the buffered text. Raises `OSError`, but not for a closed pipe."""
        self._unless_closed(self._stream.flush)

    def discard(self) -> None:
        """Discard all further output, including what is buffered."""
        self.reader_left = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def _unless_closed(self, act: Callable[[], object]) -> None:
        try:
            act()
        except BrokenPipeError:
            self.discard()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
