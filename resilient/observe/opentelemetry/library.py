"""The name and the version of this library, under which meters and tracers are made."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["NAME", "release"]

NAME = "resilient"


def release() -> str:
    """Return the version of this library; "" for a checkout that is not installed."""
    try:
        return version("resilient-middleware")
    except PackageNotFoundError:
        return ""
