"""`Chaos`, handed on from `resilient.chaos`."""

from resilient.chaos.policy import Chaos

__all__ = ["Chaos"]
