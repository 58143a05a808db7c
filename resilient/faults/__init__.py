"""Faults of a dependency: one vocabulary for the demo, for simulated worlds, and for chaos in real calls.

fault         the base of all kinds: share, time, targets, and what a fault does to a request
kinds         the kinds of faults, one class each
selection     which faults one request meets
tables        faults from plain data, as in scenario files
fields        checks of the fields of a fault
exceptions    the exceptions that a fault raises instead of an answer
"""

from resilient.faults.fault import Fault
from resilient.faults.fields import Target
from resilient.faults.kinds import (
    KINDS,
    Crash,
    DrippingBody,
    Errors,
    Latency,
    PacketLoss,
    Partition,
    Reset,
    Results,
    Slowness,
    Stall,
    TruncatedBody,
)
from resilient.faults.tables import fault_from, faults_from

__all__ = [
    "KINDS",
    "Crash",
    "DrippingBody",
    "Errors",
    "Fault",
    "Latency",
    "PacketLoss",
    "Partition",
    "Reset",
    "Results",
    "Slowness",
    "Stall",
    "Target",
    "TruncatedBody",
    "fault_from",
    "faults_from",
]
