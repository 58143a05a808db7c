"""The former path of `resilient.observe.trace_file`."""

from resilient.observe.trace_file import MAX_BYTES, VERSION, opened, read_trace

__all__ = ["MAX_BYTES", "VERSION", "opened", "read_trace"]
