"""Files of results are complete or absent; and standard output whose reader leaves."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from resilient.cli.standard_output import Output
from resilient.lab.files import write


def test_file_is_replaced_whole_with_its_mode(tmp_path: Path) -> None:
    """A written file keeps its mode, and no temporary file remains."""
    file = tmp_path / "out.json"
    file.write_text("before")
    file.chmod(0o640)
    write(file, "after")

    assert file.read_text() == "after"
    assert file.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [file]


def test_link_stays_a_link(tmp_path: Path) -> None:
    """Writing through a symbolic link replaces its target."""
    (tmp_path / "real.json").write_text("before")
    (tmp_path / "link.json").symlink_to("real.json")
    write(tmp_path / "link.json", "after")

    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").read_text() == "after"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_write_that_fails_leaves_what_there_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """A full disk or Ctrl-C leaves the previous file, and no temporary file."""

    def fail(*args: Any) -> None:
        raise error

    file = tmp_path / "out.json"
    file.write_text("before")
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(type(error)):
        write(file, "after")

    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]


def test_error_of_a_write_names_the_file() -> None:
    """The error of a full disk names the file, which the system does not."""
    if not Path("/dev/full").exists():
        return
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        write(Path("/dev/full"), "results")


def test_pipe_is_written_to_directly(tmp_path: Path) -> None:
    """A pipe is not replaced by a file."""
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    write(fifo, "results")

    assert os.read(reader, 100) == b"results"
    os.close(reader)


def test_output_goes_on_when_its_reader_has_left() -> None:
    """Later output is discarded."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        output = Output(stream)
        for _ in range(3):
            assert output.write("x" * 100_000) == 100_000
        output.flush()


def test_output_shows_what_an_encoding_has_not_as_a_question_mark() -> None:
    """Output to an ASCII terminal raises nothing."""
    raw = io.BytesIO()
    output = Output(io.TextIOWrapper(raw, encoding="ascii"))
    output.write("p99 ± 3 µs")
    output.flush()

    assert raw.getvalue() == b"p99 ? 3 ?s"


def test_output_is_a_stream_in_all_else() -> None:
    """Other attributes are those of the wrapped stream."""
    output = Output(sys.__stdout__ or io.StringIO())
    assert output.encoding == getattr(sys.__stdout__, "encoding", None)
