"""OpenTelemetry: the figures of pipelines as metrics, calls and attempts as spans. The extra is `otel`.

    from resilient.observe.opentelemetry import export_metrics

Only `opentelemetry-api` is needed. The SDK, with readers and exporters, is the application's choice, as always with
OpenTelemetry. This package is imported only by name: `import resilient` does not load OpenTelemetry.

attributes      the attribute keys, the same on metrics and on spans
"""

from __future__ import annotations

try:
    import opentelemetry.metrics  # noqa: F401  # for the message below
except ImportError as error:
    raise ImportError(
        'resilient.observe.opentelemetry needs OpenTelemetry: pip install "resilient-middleware[otel]"'
    ) from error

from resilient.observe.opentelemetry.attributes import attribute

__all__ = ["attribute"]
