"""Keyed: one circuit, one bulkhead or one limit for each host or tenant.

keyed        the policy
key_table    its gates by key: bounded in size, least recently used first
"""

from resilient.policies.keyed.keyed import Keyed

__all__ = ["Keyed"]
