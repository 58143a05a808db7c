"""Files that the commands read and write: bounded when they are read, whole or not there when they are written.

Nothing is read that is not a regular file: a pipe that nobody writes to would block, and a device has no end.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path

__all__ = ["STDOUT", "read_text", "write"]

STDOUT = Path("-")
"""Names standard output where a file for results is asked for."""


def read_text(path: Path, most: int) -> str:
    """The text of a file of at most `most` bytes, in UTF-8 with or without a byte order mark.

    Raises `ValueError`, in one line that names the file and what is wrong with it.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError(f"{path} cannot be read: it is a {'directory' if path.is_dir() else 'pipe or a device'}")
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None
    if len(data) > most:
        raise ValueError(f"{path} is too large: at most {most:,} bytes are read")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path} is not UTF-8 text (line {line})") from None


def write(path: Path, data: str | bytes) -> None:
    """Write results to a file, or to standard output where `path` is `STDOUT`.

    A file has all of it, or what it had before: the data goes to a new file beside it, which then takes its place.
    What is no regular file (a pipe, a device) is written to directly. Raises `OSError`.
    """
    if path == STDOUT:
        text = data if isinstance(data, str) else data.decode()
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    encoded = data.encode() if isinstance(data, str) else data
    path = path.resolve()  # a link stays one
    if path.exists() and not path.is_file():
        path.write_bytes(encoded)
        return
    if path.exists() and not os.access(path, os.W_OK):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    part = path.with_name(f".{path.name[:100]}.{os.getpid()}.part")
    try:
        with part.open("xb") as file:
            file.write(encoded)
        if path.exists():
            part.chmod(stat.S_IMODE(path.stat().st_mode))
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
