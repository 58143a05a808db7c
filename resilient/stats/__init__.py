"""Pure statistics of what a dependency did lately: no I/O, no clock of their own.

window       sums over the last calls, or over the last seconds
histogram    one quantile of a stream of latencies
"""
