"""CircuitBreaker: when a dependency fails, stop asking for a while, then ask carefully.

breaker      the policy
circuit      its state machine
pybreaker    a real `pybreaker.CircuitBreaker` in front of the circuit, for its listeners and storages
"""

from resilient.policies.breaker.breaker import CircuitBreaker

__all__ = ["CircuitBreaker"]
