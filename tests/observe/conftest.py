"""Fixtures of the tests of exporters."""

from __future__ import annotations

from tests.observe.otel_world import exporting, figures, provider, providing, reader
from tests.observe.scrapes import new_registry

__all__ = ["exporting", "figures", "new_registry", "provider", "providing", "reader"]
