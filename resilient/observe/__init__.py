"""What to do with events (`resilient.events`): one file for each place they can go.

logging     lines of the standard log, without a flood
"""
