"""Observation: what listens to events (`resilient.events`), and what it writes or sums up.

logging         log_events: lines of the standard log, limited while a dependency is down
shadow          report_shadows: what policies in shadow mode would have done
trace           record_trace: the calls and attempts of pipelines, written to a file
trace_file      read_trace: reads such files
trace_records   the records in a trace: calls, attempts, classes of errors
evidence        the parts of an error that a trace keeps: its class's name, and the facts by which it is classified
"""
