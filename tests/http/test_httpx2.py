"""`resilient.http.httpx2` is `resilient.http.httpx` with the name of the library replaced."""

import re
from pathlib import Path

import resilient.http


def test_module_for_httpx2_is_the_module_for_httpx_with_the_name_replaced() -> None:
    """A change in one module is made in the other, too; the line breaks of `ruff format` do not count."""
    folder = Path(resilient.http.__path__[0])
    ours, theirs = (re.sub(r"\s+", " ", (folder / name).read_text("utf-8")) for name in ("httpx.py", "httpx2.py"))
    assert re.sub(r"\bhttpx\b", "httpx2", ours) == theirs
