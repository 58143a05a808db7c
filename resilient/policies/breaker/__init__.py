"""CircuitBreaker: stops calling a failing dependency for a while, then calls it again carefully.

breaker      the policy
circuit      its state machine
pybreaker    a real `pybreaker.CircuitBreaker` in front of the circuit, for its listeners and storages
"""

from resilient.policies.breaker.breaker import CircuitBreaker

__all__ = ["CircuitBreaker"]
