"""The `resilient` command. It needs the extra `cli`; `demo` needs the extra `demo`, `simulate --plot` `lab`.

Exit codes: 0 all is well, 1 a bad verdict, 2 bad arguments or a missing package, 130 Ctrl-C.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import math
import os
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, NoReturn, TextIO, cast

from resilient import arguments
from resilient.lab.figures import SUFFIXES
from resilient.lab.files import Output

__all__ = ["app", "main"]


def _missing(extra: str) -> str:
    """What to say where the packages of an extra are not installed."""
    return f'resilient: this command needs more packages: pip install "resilient-middleware[{extra}]"'


try:
    import typer
except ModuleNotFoundError:
    # Nothing here works without typer, and a command says so in a line, not in a traceback.
    print(_missing("demo" if sys.argv[1:2] == ["demo"] else "cli"), file=sys.stderr)
    raise SystemExit(2) from None

STDOUT = Path("-")
"""Names standard output where results go to a file otherwise."""

app = typer.Typer(
    help="Resilience for calls: retry, circuit breaker, bulkhead, timeout.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # help and errors as plain lines, also in logs
)


def main() -> None:
    """Run the command line and exit with its code."""
    stdout, stderr = (Output(each or io.StringIO()) for each in (sys.stdout, sys.stderr))  # None: it was closed before
    sys.stdout, sys.stderr = cast("TextIO", stdout), cast("TextIO", stderr)
    try:
        try:
            app(prog_name="resilient")
        finally:
            stdout.flush()
    except OSError as error:
        stdout.discard()
        typer.echo(f"resilient: standard output: {error.strerror or error}", err=True)
        raise SystemExit(2) from None


def _refuse(message: str) -> NoReturn:
    """Say in one line why nothing is done, and exit with 2. What it quotes may come from anybody's file."""
    line = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in " ".join(message.split()))
    typer.echo(f"resilient: {line if len(line) <= LONGEST else f'{line[:LONGEST]} ...'}", err=True)
    raise typer.Exit(2)


LONGEST = 2000
"""Characters of a message."""


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What can end any command: Ctrl-C, files that cannot be written, no memory."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("resilient: stopped", err=True)
        raise typer.Exit(130) from None
    except OSError as error:
        _refuse(f"{error.filename or 'standard output'}: {error.strerror or error}")
    except MemoryError:
        _refuse("this takes more memory than there is")


@contextlib.contextmanager
def _results(json: Path | None) -> Iterator[Path | TextIO | None]:
    """Where results go: a file, or standard output, where nothing else is printed then."""
    if json != STDOUT:
        yield json
        return
    stdout = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        yield stdout


def _print_version(asked: bool) -> None:
    if asked:
        try:
            typer.echo(f"resilient-middleware {version('resilient-middleware')}")
        except PackageNotFoundError:  # a checkout that is not installed
            typer.echo("resilient-middleware (not installed)")
        raise typer.Exit


@app.callback()
def _common(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Resilience for calls: retry, circuit breaker, bulkhead, timeout."""


def _number(
    option: str, about: str, least: float, most: float = math.inf, unit: str = "", *, whole: bool = False
) -> Any:
    """An option with a number from `least` to `most`; any other value ends the command with a line that names it."""
    span = f"at least {least:g}" if math.isinf(most) else f"from {least:g} to {most:g}"
    kind = "a whole number" if math.isinf(least) else span + (unit and f" {unit}")

    def read(given: Any) -> float:
        try:
            value = int(given) if whole else float(given)
        except ValueError:
            number = "a whole number, " if whole and kind[0] != "a" else ""
            _refuse(f"{option} must be {number}{kind}, got {given!r}{arguments.without_unit(given, kind)}")
        if not least <= value <= most or value == math.inf:
            _refuse(f"{option} must be {kind}, got {given}{arguments.percent(value) if most == 1 else ''}")
        return value

    return typer.Option(option, help=about, parser=read, metavar="INTEGER" if whole else "NUMBER")


def _check_outputs(json: Path | None, plot: Path | None = None, *inputs: Path) -> None:
    """Refuse files that cannot be written, before half a minute is spent on results that could not be kept."""
    taken = {path.resolve(): f"what is read, {path}" for path in inputs if path.is_file()}
    for option, path in (("--plot", plot), ("--json", json)):
        if path is None or (path == STDOUT and option == "--json"):
            continue
        if path.is_dir():
            _refuse(f"{option} must name a file, got the directory {path}")
        if path == plot and path.suffix.lower() not in SUFFIXES:
            _refuse(f"{option} must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, got {path}")
        if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            _refuse(f"{option} must be in a directory that can be written to, got {path}")
        if path.exists() and not os.access(path, os.W_OK):
            _refuse(f"{option} must be a file that can be written to, got {path}")
        if (other := taken.setdefault(path.resolve(), option)) != option:
            _refuse(f"{option} must be another file than {other}")


@app.command()
def demo(
    seed: Annotated[
        int, _number("--seed", "What the faults and the arrivals are drawn from.", -math.inf, whole=True)
    ] = 1,
    duration: Annotated[
        # In a shorter run a killed process would hardly be back before the next fault.
        float, _number("--duration", "Seconds of load, from 5 to 3600.", 5, 3600, "seconds")
    ] = 20.0,
    rate: Annotated[
        float, _number("--rate", "Calls per second on each side, from 1 to 1000.", 1, 1000, "calls per second")
    ] = 100.0,
    plot: Annotated[Path, typer.Option(help="Where the picture goes: .png, .svg or .pdf.")] = Path(
        "resilient-demo.png"
    ),
    json: Annotated[Path | None, typer.Option(help="Where the results go, if anywhere (-: standard output).")] = None,
) -> None:
    """Call failing servers with a plain client and with a guarded one, side by side.

    Starts real HTTP servers on the loopback, with a slow tail, bursts of 503 and a SIGKILL, and
    runs the same load against them twice at the same time. Exits with 1 unless the policies earn
    their keep: resilient success of 99 % or more, plain success of 97 % or less, at most 1.2
    requests per call. A machine that cannot keep up with the load shows nothing, and exits with 1 too.
    """
    with _told():
        _check_outputs(json, plot)
    if not all(map(importlib.util.find_spec, ("httpx", "matplotlib", "rich", "starlette", "uvicorn"))):
        typer.echo(_missing("demo"), err=True)
        raise typer.Exit(2)
    with _told(), _results(json) as results:
        passed = _run_demo(seed, duration, rate, plot, results)
    raise typer.Exit(0 if passed else 1)


def _run_demo(seed: int, duration: float, rate: float, plot: Path, json: Path | TextIO | None) -> bool:
    from resilient.demo.experiment import Settings
    from resilient.demo.fleet import NotReady
    from resilient.demo.session import show

    try:
        return show(Settings(seed=seed, duration=duration, rate=rate), plot=plot, json_file=json)
    except* NotReady as failures:
        first: BaseException = failures
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        typer.echo(f"resilient: {first}", err=True)
    return False


@app.command()
def explain(
    target: Annotated[str, typer.Argument(metavar="MODULE:PIPELINE", help="A pipeline, or what has one.")],
    behind: Annotated[
        str | None, typer.Option(metavar="MODULE:PIPELINE", help="Another one, whose function calls through it.")
    ] = None,
    plain: Annotated[
        bool | None,
        typer.Option("--def/--async", help="It guards a plain def, or an async def. [default: as the target shows]"),
    ] = None,
    function_limit: Annotated[
        float | None,
        _number(
            "--function-limit",
            "Seconds that the function takes by itself at most (its client's timeout).",
            0,
            1e9,
            "seconds",
        ),
    ] = None,
    max_latency: Annotated[
        float | None, _number("--max-latency", "Exit with 1 when a call may take more seconds.", 0, 1e9, "seconds")
    ] = None,
    max_requests: Annotated[
        int | None,
        _number("--max-requests", "Exit with 1 when a call may make more requests.", 0, 1e9, "requests", whole=True),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Where it goes as data, if anywhere (-: standard output).")] = None,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="Print a diagram in Mermaid's language instead.")] = False,
) -> None:
    """Tell what a pipeline does to a call at worst, without running it.

    Latency, attempts and requests at most; what every error meets on its way outward; policies that
    never act; what is wrong with the order or the plan, and what to write instead.
    """
    from resilient.lab import drawing, explain_command, subject

    function: subject.Function | None = None if plain is None else "def" if plain else "async"
    with _told(), _results(json) as results:
        _check_outputs(json)
        try:
            found = explain_command.explained(
                target, behind=behind, function=function, function_limit=function_limit, json_file=results
            )
        except ValueError as error:
            _refuse(str(error))
        columns = max(20, min(shutil.get_terminal_size((drawing.WIDTH, 24)).columns, drawing.WIDTH))
        typer.echo(found.mermaid() if mermaid else drawing.text(found, columns))
    missed = explain_command.over(found, max_latency=max_latency, max_requests=max_requests)
    for each in missed:
        typer.echo(f"missed: {each}", err=True)
    raise typer.Exit(1 if missed else 0)


@app.command()
def simulate(
    scenario: Annotated[
        str | None, typer.Argument(help="A TOML file, one of the gallery (`list` names them), or MODULE:FUNCTION.")
    ] = None,
    trace: Annotated[
        list[Path] | None,
        typer.Option(
            help="Instead of a scenario: recorded calls (resilient.observe.trace), as they came. May be repeated, for "
            "the files of several workers."
        ),
    ] = None,
    of: Annotated[str | None, typer.Option(help="Whose calls of the trace: a pipeline's name.")] = None,
    max_trace_bytes: Annotated[
        int,
        _number(
            "--max-trace-bytes",
            "Bytes of traces that are read, uncompressed; they may take 8 times as much memory.",
            1,
            2**63,
            "bytes",
            whole=True,
        ),
    ] = 128 * 2**20,
    shadow: Annotated[
        bool, typer.Option("--shadow", help="Policies only watch (shadow mode); report what they would have done.")
    ] = False,
    pipeline: Annotated[
        list[str] | None,
        typer.Option(
            help="Of the scenario, MODULE:NAME, or `none`. May be repeated. [default: all of the scenario, or none]"
        ),
    ] = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="A B", help="These two, named as for --pipeline, of a trace too; the objectives are for the second."
        ),
    ] = None,
    calls: Annotated[
        str | None,
        typer.Option(
            metavar="http|MODULE:NAME", help="What calls and answers look like: HTTP, or a resilient.lab.calls.Calls."
        ),
    ] = None,
    seed: Annotated[int, _number("--seed", "What everything random is drawn from.", -math.inf, whole=True)] = 1,
    runs: Annotated[
        int,
        _number(
            "--runs", "Runs of each pipeline, with the seeds from --seed on, up to 1000.", 1, 1000, "runs", whole=True
        ),
    ] = 1,
    json: Annotated[
        Path | None, typer.Option(help="Where the results go as data, if anywhere (-: standard output).")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Where the picture goes, if anywhere: .png, .svg or .pdf.")] = None,
    min_success: Annotated[
        float | None, _number("--min-success", "Exit with 1 when a smaller share of calls succeeds.", 0, 1)
    ] = None,
    max_p99: Annotated[
        float | None,
        _number("--max-p99", "Exit with 1 when p99 of successes is longer, in seconds.", 0, unit="seconds"),
    ] = None,
    max_attempts_per_call: Annotated[
        float | None,
        _number("--max-attempts-per-call", "Exit with 1 when the service gets more requests for a call.", 0),
    ] = None,
    max_recovery: Annotated[
        float | None,
        _number(
            "--max-recovery",
            "Exit with 1 when it takes more seconds from the end of the faults to recover, or cannot be seen to.",
            0,
            unit="seconds",
        ),
    ] = None,
    allow_imports: Annotated[
        bool, typer.Option("--allow-imports", help="The scenario file may name code (MODULE:NAME), which then runs.")
    ] = False,
    large: Annotated[
        bool, typer.Option("--large", help="It may take more than ten minutes, or two gigabytes of memory.")
    ] = False,
    run_hooks: Annotated[
        bool,
        typer.Option("--run-hooks", help="Run hooks, listeners and Fallback functions too, instead of counting them."),
    ] = False,
) -> None:
    """Try pipelines in a scripted outage, in virtual time: minutes of failure in seconds.

    The policies are the real ones, and one seed gives one result.
    """
    with _told():
        _check_outputs(json, plot, *(trace or ()), Path(scenario or ""))
    for package, extra in (("rich", "cli"), *([("matplotlib", "lab")] if plot is not None else [])):
        if importlib.util.find_spec(package) is None:
            typer.echo(_missing(extra), err=True)
            raise typer.Exit(2)
    from resilient.lab import simulate as lab

    with _told(), _results(json) as results:
        try:
            goals = lab.objectives(
                min_success,
                max_p99,
                max_attempts_per_call,
                max_recovery,
            )
            if compare is not None and pipeline:
                _refuse("--compare names the two pipelines: --pipeline has no meaning beside it")
            passed = lab.run(
                scenario,
                pipelines=pipeline or (),
                compare=compare,
                seed=seed,
                runs=runs,
                json_file=results,
                plot=plot,
                goals=goals,
                traces=trace or (),
                of=of,
                max_trace_bytes=max_trace_bytes,
                shadow=shadow,
                imports=allow_imports,
                large=large,
                calls=calls,
                run_hooks=run_hooks,
            )
        except (lab.ScenarioError, lab.CandidateError) as error:
            _refuse(str(error))
    raise typer.Exit(0 if passed else 1)
