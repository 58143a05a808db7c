"""Observation: listeners of events (`resilient.events`), which log, sum up or record them.

event_text      text_of, level_of: an event as one line of text, and its level
bad_calls       bad_share: the calls that count as bad
logging         log_events: lines of the standard log or of structlog, limited while a dependency is down
health          HealthEndpoint, health: liveness and readiness for orchestrators
live/           LiveView: the web page with the pipelines of this process, as an ASGI application
dashboards/     dashboard_files: dashboards for Grafana, and rules for Prometheus
why             why: the reason for which a call ended as it did; recording: the same for results
call_report     the report of one call as plain data
call_steps      the steps of a call, from its history
timeline        the same data as a text for people
shadow          report_shadows: the actions that policies in shadow mode would have taken
trace           record_trace: the calls and attempts of pipelines, written to a file
trace_file      read_trace: reads such files
trace_files     the former path of trace_file
trace_records   the records in a trace: calls, attempts, classes of errors
traced          the former path of trace_records
evidence        the parts of an error that a trace keeps: its class's name, and the facts by which it is classified
metrics         the table of metrics, and read: their values now, for exporters
gauges          the gauges of policies, read from their snapshots
trace_ids       the identifiers of the current OpenTelemetry span, for exemplars
prometheus/     register: the metrics in a registry of prometheus-client; needs the extra `prometheus`
opentelemetry/  metrics and spans of OpenTelemetry; needs the extra `otel`
"""
