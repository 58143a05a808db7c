"""OpenTelemetry: the figures of pipelines as metrics, calls and attempts as spans. The extra is `otel`.

    from resilient.observe.opentelemetry import export_metrics, trace_calls

Only `opentelemetry-api` is needed. The SDK, with readers and exporters, is the application's choice, as always with
OpenTelemetry. This package is imported only by name: `import resilient` does not load OpenTelemetry.

attributes      the attribute keys, the same on metrics and on spans
library         the name and the version of this library
metrics         export_metrics: the figures of all pipelines as metrics
observations    what the instruments observe, from one reading for each collection
readers         the readers of the SDK, which get durations as histograms
points          durations as metrics of the SDK, as views want them
buckets         arithmetic on histograms of durations
spans           trace_calls: calls and attempts as spans
call_spans      the spans of calls and attempts: when they are current, and what they say at their end
span_events     the events of a call on its span
resends         count_resends: `http.request.resend_count` on the spans of an instrumented HTTP client
"""

from __future__ import annotations

try:
    import opentelemetry.metrics  # noqa: F401  # for the message below
except ModuleNotFoundError as error:
    if not (error.name or "").startswith("opentelemetry"):
        raise
    raise ImportError(
        'resilient.observe.opentelemetry needs OpenTelemetry: pip install "resilient-middleware[otel]"'
    ) from error

from resilient.observe.opentelemetry.attributes import attribute
from resilient.observe.opentelemetry.metrics import METER, export_metrics
from resilient.observe.opentelemetry.resends import count_resends, count_resends_async
from resilient.observe.opentelemetry.spans import trace_calls

__all__ = ["METER", "attribute", "count_resends", "count_resends_async", "export_metrics", "trace_calls"]
