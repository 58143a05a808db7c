"""Files that the commands read and write. Reading is bounded; a written file has all of its content or is not there.

Only regular files are read: a pipe without a writer would block, and a device has no end.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TextIO

__all__ = ["read_text", "write"]


def read_text(path: Path, most: int) -> str:
    """The text of a file of at most `most` bytes, in UTF-8 with or without a byte order mark.

    Raises `ValueError`, in one line with the name of the file and what is wrong with it.
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


def write(to: Path | TextIO, data: str | bytes) -> None:
    """Write results to a file, or text to an open stream.

    A file then has all of the results, or what it had before: the data goes to a new file beside it, which then
    replaces it. A pipe or a device is written to directly. Raises `OSError`.
    """
    if not isinstance(to, Path):
        to.write(data if isinstance(data, str) else data.decode())
        to.flush()
        return
    try:
        _put(to.resolve(), data.encode() if isinstance(data, str) else data)  # a symbolic link remains
    except OSError as error:  # the error of a full disk does not name the file
        raise OSError(error.errno, error.strerror, str(to)) from None


def _put(path: Path, encoded: bytes) -> None:
    if path.exists() and not path.is_file():
        path.write_bytes(encoded)
        return
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
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
