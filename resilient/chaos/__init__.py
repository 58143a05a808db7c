"""Failure on purpose: find out before an outage does.

policy        Chaos, the policy that has the dependency of real calls fail
experiment    whether an experiment is on, which faults a call meets, and when it has to stop
"""

from resilient.chaos.policy import Chaos

__all__ = ["Chaos"]
