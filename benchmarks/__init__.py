"""What the library costs and what it brings, measured: `python -m benchmarks NAME`.

Each benchmark is a module of this package with a function `run(options) -> Report`; the first line
of its docstring is what `python -m benchmarks list` says about it. A report holds figures; some have
a bar to meet, and the command exits with 1 when one is missed. What others do in the same run stands
beside it. So a new benchmark is a new module, and a new row is a new `Figure`.

    measure   how calls are timed: interleaved rounds, as multiples of a bare call; processes: in several of them
    spread    medians and the intervals by which figures are judged
    targets   the functions that get guarded
    patterns  the rows of `overhead`: which policies, ours and theirs; bars: what ours may cost
    peers     the same patterns, built with other libraries; by_hand: with the standard library
    clients   the transports of `transport`, ours and theirs; loopback: what they add to real requests
    memory    what a breaker, a key and a call in flight hold, for `scale`
    options   what the command line asks for
    report    figures, bars, the table and the JSON
    plot      the picture; curves: that of a report with curves; highlights: that of the README
    publish   the tables and pictures of README.md and docs/performance.md from a committed run; tables: the tables
"""
