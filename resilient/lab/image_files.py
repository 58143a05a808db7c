"""Figures of matplotlib as PNG, SVG or PDF files, by the suffix of the name. The same figure gives the same bytes."""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resilient.lab.files import write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["SUFFIXES", "save"]

DATELESS: dict[str, dict[str, Any]] = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
SUFFIXES = tuple(DATELESS)
"""The suffixes that the name of an image file may have."""


def save(figure: Figure, file: Path, dpi: int) -> None:
    """Write a figure to a file whose name ends in one of `SUFFIXES`. Raises `OSError`."""
    from matplotlib import rc_context

    suffix, image = file.suffix.lower(), BytesIO()
    with rc_context({"svg.hashsalt": "resilient"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # characters that the font lacks
        figure.savefig(image, dpi=dpi, format=suffix[1:], metadata=DATELESS[suffix])
    write(file, image.getvalue())
