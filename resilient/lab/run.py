"""The record of one run of a world: every call, every request, and the state of the policies over time."""

from __future__ import annotations

from array import array
from collections import Counter

from resilient.lab.candidates import Candidate
from resilient.lab.policy_states import Sample
from resilient.lab.scenario import Scenario

__all__ = ["STOOD_IN", "SUCCESS", "UNFINISHED", "Run"]

SUCCESS, STOOD_IN, UNFINISHED = "success", "stood in", "unfinished"
"""Outcomes besides the names of exceptions: an answer of the service, of a Fallback, none when the world ended."""


class Run:
    """What happened in one run.

    Attributes:
        begins, ends: of each call, in the order in which they ended, in seconds.
        outcomes: of each of them, a number in `names`; requests: how many it became.
        priorities: of each of them, a number in `PRIORITIES`.
        sent: when each request was sent.
        samples: of circuits and budgets, every `step` seconds.
        executed: requests that the service has worked off.
        acted: of each fault of the scenario, in order, how many requests it has changed something for.
        not_run: how often code of the candidate would have run that may do something in the world, by what it is.
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
