"""`Chaos` and its `objective`, handed on from `resilient.chaos`."""

from resilient.chaos.policy import Chaos, objective

__all__ = ["Chaos", "objective"]
