"""Image files: the format follows the suffix, and the same figure gives the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from resilient.lab.image_files import save


@pytest.mark.parametrize(("suffix", "begin"), [(".png", b"\x89PNG"), (".SVG", b"<?xml"), (".pdf", b"%PDF")])
def test_figure_is_of_the_kind_that_its_name_says(tmp_path: Path, suffix: str, begin: bytes) -> None:
    """The file has no date in it, so two files of the same figure are equal."""
    from matplotlib.figure import Figure

    files = [tmp_path / f"one{suffix}", tmp_path / f"two{suffix}"]
    for file in files:
        figure = Figure(figsize=(1, 1))
        figure.text(0, 0, "a name")
        save(figure, file, dpi=50)

    assert files[0].read_bytes().startswith(begin)
    assert files[0].read_bytes() == files[1].read_bytes()
