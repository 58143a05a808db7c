"""`resilient watch`: the pipelines of a running process in the terminal, from its live page or its metrics.

command         its options, and its exit code
run             its run: reads, shows, writes, until it is over

reading         the state of pipelines at one moment, as both sources give it
live_page       reads the live page (`resilient.observe.live`)
metrics_text    reads metrics in the text format of Prometheus
sources         finds out which of the two an address is

board           the readings so far: trends, the latest events, and whether the source answers
screen          the board on a terminal, or as lines
sparkline       a row of bars, one for each value
"""
