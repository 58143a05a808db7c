"""Keyed: one circuit, one bulkhead or one limit for each host or tenant.

keyed        the policy
key_table    the gates by key: an LRU table of bounded size
"""

from resilient.policies.keyed.keyed import Keyed, table_of

__all__ = ["Keyed", "table_of"]
