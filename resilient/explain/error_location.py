"""An error of the user's code in one line, with the file and the line that raised it."""

from __future__ import annotations

import contextlib
import sysconfig
import traceback
from pathlib import Path

from resilient._validation import in_a_line

__all__ = ["located"]

_PYTHON = tuple(Path(sysconfig.get_path(each)).resolve() for each in ("stdlib", "platstdlib", "purelib", "platlib"))
_OURS = Path(__file__).resolve().parents[1]


def located(error: BaseException) -> str:
    """An error in one line, with the innermost line of the user's code: `ValueError: no such host (app.py, line 7)`."""
    said = in_a_line(error)
    if isinstance(error, SyntaxError) and error.filename:
        said, file, line = in_a_line(error, error.msg), error.filename, error.lineno
    else:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
        files = [Path(frame.filename).resolve() for frame in frames]
        theirs = [at for at, each in enumerate(files) if not any(map(each.is_relative_to, (*_PYTHON, _OURS)))]
        if not theirs:
            return said
        file, line = frames[theirs[-1]].filename, frames[theirs[-1]].lineno
    shown = Path(file)
    with contextlib.suppress(ValueError):
        shown = shown.resolve().relative_to(Path.cwd())
    return f"{said} ({shown}, line {line})"
