"""Benchmarks of the library's cost and of its effect: `python -m benchmarks NAME`.

A benchmark is a module of `cost` or `effect` with a function `run(options) -> Report`. The first line of its docstring
is what `python -m benchmarks list` prints. A report holds figures. Some have a bar to meet, and the command exits with
1 when one is missed. Peers measured in the same run stand beside ours. A new benchmark is a new module, and a new row
is a new `Figure`.

harness     how measurements are taken, judged, printed and plotted; names no policy
contenders  the measured subjects: patterns built with this library, its peers and the standard library
cost        benchmarks of the cost of a guarded call: time, memory, imports
effect      benchmarks of the effect of policies: fewer failures, shorter tails, recovery
__main__    the command `python -m benchmarks`: runs one benchmark, prints its table, writes its JSON and its plot
dashboards  the command `python -m benchmarks.dashboards`: the picture of a dashboard, with the metrics of a real run
publish     the command `python -m benchmarks.publish`: writes the tables and plots of README.md and docs/performance.md

Imports go down only: `publish` and the command import `cost` and `effect`, these import `contenders`, and all import
`harness`.
"""
