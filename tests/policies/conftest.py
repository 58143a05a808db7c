"""Fixtures for the tests of policies."""

from __future__ import annotations

from tests.servers import valkey

__all__ = ["valkey"]
