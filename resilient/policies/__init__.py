"""The policies. A folder is a family: one policy and what it alone needs.

retry/       Retry, backoff, and tenacity's strategies
breaker/     CircuitBreaker, its circuit, and its pybreaker facade
hedge/       Hedge, the race of its copies, and its delay
keyed/       Keyed, and its table of gates
bulkhead     Bulkhead
ratelimit    RateLimit
adaptive     AdaptiveLimit (its rules are in `resilient.limiters`)
timeout      Timeout
fallback     Fallback
chaos        Chaos, handed on from `resilient.chaos`
"""
