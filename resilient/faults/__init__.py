"""What can go wrong with a dependency: one vocabulary for the demo, for simulated worlds, and for chaos in real calls.

kinds         the kinds of faults, one class each
tables        faults from plain data, as scenario files have it
fields        checks of the fields of a fault
exceptions    the exceptions that a fault raises in the place of an answer
"""

from resilient.faults.fields import Target
from resilient.faults.kinds import (
    KINDS,
    Crash,
    DrippingBody,
    Errors,
    Fault,
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
