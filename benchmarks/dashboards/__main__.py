"""Write docs/dashboards.png: the dashboard of one dependency, with the metrics of a run of three minutes."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

from benchmarks.dashboards.draw import draw
from benchmarks.dashboards.outage import SECONDS, run
from resilient.observe.dashboards import dashboard_files

FILE = Path(__file__).parents[2] / "docs" / "dashboards.png"


def main() -> int:
    """Run, and draw."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dashboards", description=__doc__)
    parser.add_argument("--plot", type=Path, default=FILE, help="file of the picture (default: docs/dashboards.png)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="length of the run")
    options = parser.parse_args()
    named = os.environ.get("RESILIENT_PROMETHEUS", "prometheus")
    program = shutil.which(named)
    if program is None:
        print(f"{named} is no program: set RESILIENT_PROMETHEUS, or put prometheus on the PATH", file=sys.stderr)
        return 2
    dashboard = json.loads(dashboard_files()["resilient-dependency.json"])
    draw(dashboard, run(dashboard, program, options.seconds), options.plot, rows=3)
    return 0


if __name__ == "__main__":
    sys.exit(main())
