"""The picture of a dashboard in the documentation: its panels, with the metrics of a real run.

    python -m benchmarks.dashboards                      writes docs/dashboards.png, in three minutes

A guarded client calls three servers through their faults, while a real Prometheus scrapes it. Then the queries of each
panel go to that Prometheus, and matplotlib draws the results in the places of the panels, because Grafana cannot be
installed everywhere.

__main__  the command
outage    the run: servers with faults, the guarded client, the results of all queries
server    one server process of the run
draw      the picture
"""
