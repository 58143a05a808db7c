"""`resilient.lab.explain`, the earlier path of `resilient.explain`."""

from __future__ import annotations

import resilient.explain
import resilient.lab.explain


def test_names_are_those_of_the_package() -> None:
    """Each public name of the package is the same object under both paths."""
    assert resilient.lab.explain.__all__ == resilient.explain.__all__
    for name in resilient.explain.__all__:
        assert getattr(resilient.lab.explain, name) is getattr(resilient.explain, name)
