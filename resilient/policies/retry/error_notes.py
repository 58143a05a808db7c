"""Notes and tracebacks of the user's exception objects, which may be raised again and again."""

from __future__ import annotations

from types import TracebackType

import tenacity

from resilient.errors import Rejected, reason_of

__all__ = ["error_to_raise", "forget_before", "note", "text_of_rejection"]

_MARK = "resilient: "


def note(error: BaseException, text: str) -> None:
    """Add a note to an error, in place of an earlier note of this library. Does nothing to an object that takes no
    notes."""
    try:
        notes = getattr(error, "__notes__", None)
        if isinstance(notes, list):
            notes[:] = [note for note in notes if not (type(note) is str and note.startswith(_MARK))]
        error.add_note(_MARK + text)
    except Exception:
        pass  # a frozen dataclass, or attributes that raise: it is raised all the same


def forget_before(error: BaseException, older: TracebackType | None) -> None:
    """Cut `older` off the traceback of an object that was raised again, to which Python has added the new one."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not older:
        trace = trace.tb_next
    if trace is not None:
        trace.tb_next = None


def error_to_raise(error: Exception) -> Exception:
    """The error to raise to the caller: of a `tenacity.TryAgain`, the error that made the user raise it, if there was
    one; else the error itself."""
    if not issubclass(type(error), tenacity.TryAgain):
        return error
    cause = error.__context__ if error.__cause__ is None else error.__cause__
    return cause if isinstance(cause, Exception) else error


def text_of_rejection(error: Exception | None, pipeline: str) -> str:
    """The text of a rejection; without the pipeline's name if that is `pipeline`, which the note names already."""
    if not isinstance(error, Rejected):
        return type(error).__name__
    return reason_of(error) if error.pipeline == pipeline else str(error)
