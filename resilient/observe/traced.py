"""The former path of `resilient.observe.trace_records`."""

from resilient.observe.trace_records import Trace, TracedAttempt, TracedCall, TracedKind, TraceError, WouldHave

__all__ = ["Trace", "TraceError", "TracedAttempt", "TracedCall", "TracedKind", "WouldHave"]
