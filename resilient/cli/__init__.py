"""The `resilient` command: `explain`, `simulate`, `demo`, `watch` and `dashboards`.

The command line:

    command             `main`: runs it, and what works without an extra (`--help`, `--version`)
    extras              the extra that each command needs, and the command line without it
    app                 the command line as a `typer.Typer`
    options             options with numbers, and files that results are written to
    refusal             errors in one line, and the exit codes
    standard_output     standard output whose reader may leave before the end
    terminal            tables and texts that fit the terminal, and progress

The commands:

    explain             `resilient explain`: its options
    worst_case          its run: the explanation, and the limits that it exceeds
    simulate            `resilient simulate`: its options
    simulation          its run: the scenario, the pipelines, the results
    simulation_report   its results for people
    demo                `resilient demo`: its options
    dashboards          `resilient dashboards`: its options and its run
    watch/              `resilient watch`
"""

from resilient.cli.command import main

__all__ = ["main"]
