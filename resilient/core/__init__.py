"""The contract that a policy is written against."""
