"""Failures on purpose: they show before an outage whether timeouts, retries and fallbacks hold.

policy        Chaos, the policy that injects faults into real calls
experiment    the decisions: whether it is on, which faults a call meets, and when it must stop
"""

from resilient.chaos.policy import Chaos

__all__ = ["Chaos"]
