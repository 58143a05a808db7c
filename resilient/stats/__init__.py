"""Statistics of recent calls of a dependency, without I/O and without clocks.

window       sums over the last calls, or over the last seconds
histogram    one quantile of a stream of latencies
durations    a cumulative histogram of durations
"""
