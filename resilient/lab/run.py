"""The record of one run of a world: every call, every request, and the state of the policies over time."""

from __future__ import annotations

from array import array
from collections import Counter

from resilient.lab.candidates import Candidate
from resilient.lab.policy_states import Sample
from resilient.lab.scenario import Scenario

__all__ = ["STOOD_IN", "SUCCESS", "UNFINISHED", "Run"]

SUCCESS, STOOD_IN, UNFINISHED = "success", "stood in", "unfinished"
"""Outcomes that are not names of exceptions: an answer of the service, a substitute of a Fallback, no answer before the
end."""


class Run:
    """The record of one run.

    Attributes:
        scenario, candidate, seed: of the run.
        step: seconds between two samples.
        begins, ends: of each call, in the order of their ends, in seconds.
        outcomes: of each call, as an index of `names`.
        requests: of each call, how many requests it became.
        priorities: of each call, as an index of `PRIORITIES`.
        sent: when each request was sent.
        samples: of the policies, every `step` seconds.
        executed: requests that the service has finished.
        acted: of each fault of the scenario, in order, how many requests it has affected.
        not_run: how often code of the candidate with effects outside the simulation would have run, by name.
    """

    def __init__(self, scenario: Scenario, candidate: Candidate, seed: int, step: float) -> None:
        self.scenario = scenario
        self.candidate = candidate
        self.seed = seed
        self.step = step
        self.begins = array("d")
        self.ends = array("d")
        self.outcomes = array("I")
        self.requests = array("I")
        self.priorities = array("B")
        self.sent: array[float] = array("d")
        self.samples: list[Sample] = []
        self.names: list[str] = [SUCCESS, STOOD_IN, UNFINISHED]
        self.executed = 0
        self.acted: list[int] = []
        self.not_run: Counter[str] = Counter()
