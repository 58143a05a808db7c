"""The names of `resilient.explain`, under the path that they had in earlier versions."""

from resilient.explain import Behind, Explanation, Idle, LongRun, Part, Route, Step, explain

__all__ = ["Behind", "Explanation", "Idle", "LongRun", "Part", "Route", "Step", "explain"]
