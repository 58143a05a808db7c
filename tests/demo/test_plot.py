"""The plot of a run."""

from __future__ import annotations

from matplotlib.figure import Figure

from resilient.demo import plot
from resilient.demo.experiment import Experiment, Settings
from resilient.demo.load import Record


def test_requests_after_the_load_do_not_flatten_the_others() -> None:
    """Retries after the last scheduled call belong to no step, and do not stretch an axis."""
    run = Experiment(Settings(seed=1, duration=20, rate=100))
    run.resilient.records = [Record(at / 100, 3.0, None) for at in range(2000)]
    run.extras.retries = [5.0] * 5 + [20.5] * 600
    panel = Figure().subplots()
    plot.show_extras(panel, run)
    assert panel.get_ylim() == (0, 25)
