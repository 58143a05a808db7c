"""What to do with events (`resilient.events`), and what they leave behind.

logging       lines of the standard log, without a flood
shadow        what policies in shadow mode would have done, summed up
trace         what calls were like, written to a file
trace_files   such files, read again
traced        what is in them: calls, attempts, classes of errors
evidence      what a trace says of an error: the name of its class, and what it can be judged by
"""
