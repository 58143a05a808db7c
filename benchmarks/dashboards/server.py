"""One server process of the run: the demo's inventory, with faults at fixed times.

    python -m benchmarks.dashboards.server NUMBER BEGAN

NUMBER is from 1 to 3, BEGAN the `time.monotonic()` from which the times of faults count. It prints its port, and ends
when its standard input closes.
"""

from __future__ import annotations

import os
import socket
import sys
import threading

import uvicorn

from resilient.demo.server import Inventory
from resilient.faults import Errors, Fault, Latency

__all__ = ["FAULTS", "SERVERS"]

SERVERS = 3
FAULTS: tuple[Fault, ...] = (
    Errors(start=50, end=75, targets=2, status=503),
    Errors(start=105, end=130, status=503),
    Latency(share=0.03, low=0.2, high=0.6),
)
"""One server fails for a while, later all do; and a slow tail, all the time."""


def main(number: int, began: float) -> None:
    """Serve until standard input closes."""
    inventory = Inventory(FAULTS, number, seed=1)
    inventory.begin(began)
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(inventory.application(), lifespan="off", log_config=None, access_log=False)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
