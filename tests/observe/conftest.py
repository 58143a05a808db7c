"""Fixtures of the tests of exporters."""

from __future__ import annotations

from tests.observe.otel_world import exporting, figures, provider, providing, reader

__all__ = ["exporting", "figures", "provider", "providing", "reader"]
