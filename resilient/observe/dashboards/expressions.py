"""PromQL expressions over the table of metrics. A metric that the table lacks raises `KeyError`, a label `ValueError`.

Three rules hold in all of them:

- `rate` first, then `sum`: a counter begins again at 0 when its process restarts, and only `rate` over one series at a
  time corrects this.
- A counter has a series only once it has counted. So two counters are added as series (`a or b` within one `sum`): with
  `+` the sum would be missing while one of them is.
- A denominator that can be 0 is compared with 0 first, so that a ratio without calls is missing, and not NaN.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from resilient.observe.metrics import TABLE, Metric, prometheus_name

__all__ = ["BAD", "COUNTED", "METRICS", "OWN_LABELS", "Query", "ratio"]

METRICS: dict[str, Metric] = {metric.name: metric for metric in TABLE}
"""The table of metrics by name."""

BAD = (('ending="failure"', 'verdict="failure"'), ('ending=~"timeout|rejected"',))
"""The calls that spend the error budget, as groups of label matchers: failures of the dependency, timeouts, refusals.

A call that its caller cancelled is no failure. Nor is a failure without evidence about the dependency (verdict
"nothing"): a mistake of the caller, or an error that the classifier ignores.
"""

COUNTED = (('ending!~"cancelled|failure"',), ('ending="failure"', 'verdict!="nothing"'))
"""The calls that an objective counts: all but the cancelled ones and the failures without evidence."""

OWN_LABELS = frozenset(label for metric in TABLE for label in metric.labels)
"""The labels of the table; all others are of scrapes."""

_MATCHER = re.compile(r'(?P<label>[a-zA-Z_]\w*)(=~|!~|!=|=)"[^"]*"')
_PARTS = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}


@dataclass(frozen=True, slots=True)
class Query:
    """The settings of expressions.

    Attributes:
        window: of rates: a duration of PromQL, or Grafana's `$__rate_interval`.
        by: the labels that sums keep, before those that each expression names.
        where: label matchers of every series; those of a label of the table only where the metric has it.
    """

    window: str
    by: tuple[str, ...] = ()
    where: tuple[str, ...] = ()

    def series(self, name: str, *matchers: str, part: str = "") -> str:
        """A selector of the metric `name`; of a histogram a `part`: `_bucket`, `_count` or `_sum`."""
        metric = METRICS[name]
        if part not in _PARTS[metric.kind]:
            raise ValueError(f"{name} is a {metric.kind}: its parts are {_PARTS[metric.kind]}, got {part!r}")
        for matcher in matchers:
            match = _MATCHER.fullmatch(matcher)
            if match is None or match["label"] not in metric.labels:
                raise ValueError(f"{name} has the labels {metric.labels}, got {matcher!r}")
        where = [each for each in self.where if _label(each) in metric.labels or _label(each) not in OWN_LABELS]
        matched = ",".join((*where, *matchers))
        return f"{prometheus_name(metric)}{part}" + (f"{{{matched}}}" if matched else "")

    def rate(self, name: str, *matchers: str, part: str = "") -> str:
        """The increase of a counter in a second, for each series."""
        return f"rate({self.series(name, *matchers, part=part)}[{self.window}])"

    def increase(self, name: str, *matchers: str, part: str = "") -> str:
        """The increase of a counter in the window, for each series."""
        return f"increase({self.series(name, *matchers, part=part)}[{self.window}])"

    def total(self, expressions: str | Sequence[str], *labels: str, of: str = "sum") -> str:
        """The sum (or `of`: `max`, `avg`, `count`) of these expressions together, with `by` and `labels` kept."""
        joined = expressions if isinstance(expressions, str) else " or ".join(expressions)
        return f"{of} by ({', '.join((*self.by, *labels))}) ({joined})"

    def calls(self, groups: Sequence[Sequence[str]] = ((),), *labels: str) -> str:
        """The calls in a second that match one of these groups of matchers, for each pipeline."""
        return self.total([self.rate("resilient.calls", *group) for group in groups], "pipeline", *labels)


def ratio(above: str, below: str, match: str = "") -> str:
    """A quotient that is missing where `below` is 0. `match`: how the two match, as `on (...) group_left ()`."""
    return f"{above} / {match + ' ' if match else ''}({below} > 0)"


def _label(matcher: str) -> str:
    return re.split(r"[=!]", matcher, maxsplit=1)[0]
