"""The plot shows the same as the table: candidates and their results can be distinguished."""

from __future__ import annotations

import itertools
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch

from resilient import Bulkhead, CircuitBreaker, Pipeline, Retry, Timeout
from resilient.faults import Errors, Stall
from resilient.lab.candidates import candidate_from
from resilient.lab.distributions import Constant, Exponential
from resilient.lab.load import Closed, Poisson
from resilient.lab.measures import Measures
from resilient.lab.plot import COLORS, MARKERS, draw, figure_of
from resilient.lab.service import ServicePlan
from resilient.lab.world import Scenario, simulate

STUBBORN = CircuitBreaker(0.2, break_duration=100, max_break=100)


def lived(policies: dict[str, Any], **changes: Any) -> list[Measures]:
    """Measures of thirty calls a second for 20 s, with errors from 5 to 10 s."""
    service = ServicePlan(Exponential(0.05), workers=4)
    faults = (Errors(start=5, end=10),)
    settings = {"duration": 20, "loads": (Poisson(30),), "service": service, "faults": faults, **changes}
    world = Scenario(**settings)
    return [Measures([simulate(world, candidate_from(name, policy))]) for name, policy in policies.items()]


def panel(figure: Figure, title: str) -> Axes:
    """The panel whose axis has this title."""
    (found,) = (axes for axes in figure.axes if title in axes.get_ylabel())
    return found


def drawn(axes: Axes) -> list[tuple[str, list[float]]]:
    """Colour and values of each line, without its gaps."""
    lines = [patch for patch in axes.patches if isinstance(patch, StepPatch)]
    return [
        (to_hex(line.get_edgecolor()), [value for value in line.get_data()[0] if not math.isnan(value)])
        for line in lines
    ]


def plotted(axes: Axes) -> list[tuple[Any, list[float]]]:
    """Marker and times of everything that is plotted besides the lines."""
    lines: list[Any] = list(axes.lines)
    return [(line.get_marker(), [float(at) for at in line.get_xdata()]) for line in lines]


def legend(figure: Figure) -> list[str]:
    """The texts in the legend of the first panel."""
    found = figure.axes[0].get_legend()
    assert found is not None
    return [text.get_text().strip() for text in found.get_texts()]


# -- colours and markers ----------------------------------------------------------------------------------------------

SIGHTS = {
    "normal": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": ((0.152, 1.053, -0.205), (0.115, 0.786, 0.099), (-0.004, -0.048, 1.052)),
    "deuteranopia": ((0.367, 0.861, -0.228), (0.280, 0.673, 0.047), (-0.012, 0.043, 0.969)),
    "tritanopia": ((1.256, -0.077, -0.179), (-0.078, 0.931, 0.148), (0.005, 0.691, 0.304)),
}
"""Linear red, green and blue as people with a colour deficiency see them (G. Machado et al., 2009)."""


def seen(color: str, sight: tuple[tuple[float, ...], ...]) -> tuple[float, float, float]:
    """A colour in CIELAB, where a distance of 2 is just visible."""
    channels = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels]
    r, g, b = (min(1.0, max(0.0, sum(map(math.prod, zip(row, linear, strict=True))))) for row in sight)
    white = (
        (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505,
        0.2126 * r + 0.7152 * g + 0.0722 * b,
        (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089,
    )
    x, y, z = (each ** (1 / 3) if each > 0.008856 else 7.787 * each + 16 / 116 for each in white)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


@pytest.mark.parametrize("sight", SIGHTS)
def test_colours_of_twelve_candidates_differ_for_every_eye(sight: str) -> None:
    """They differ by far more than a just visible distance."""
    assert len(COLORS) == len(set(MARKERS)) == 12
    for one, other in itertools.combinations(COLORS, 2):
        assert math.dist(seen(one, SIGHTS[sight]), seen(other, SIGHTS[sight])) > 15


def test_more_candidates_than_colours_have_looks_of_their_own() -> None:
    """In the legend of 25 candidates no two have the same colour and marker."""
    (one,) = lived({"once": Timeout(1)}, duration=2, faults=())
    found = figure_of([one] * 25).axes[0].get_legend()

    assert found is not None
    handles: list[Any] = found.legend_handles[1:]
    looks = {(handle.get_color(), handle.get_marker()) for handle in handles}
    assert len(looks) == 25


# -- what is drawn ----------------------------------------------------------------------------------------------------


def test_lines_have_the_values_of_the_timeline() -> None:
    """Each candidate has one line in its colour, with one value for each step."""
    found = lived({"a": Retry(3, wait=0), "b": Timeout(1)})
    figure = figure_of(found)

    assert drawn(panel(figure, "requests per")) == [
        (color, [moment.requests_per_call for moment in each.timeline])
        for color, each in zip(COLORS, found, strict=False)
    ]
    goodput = drawn(panel(figure, "successes that"))
    assert [values for _, values in goodput] == [
        [moment.offered for moment in found[0].timeline],
        *([moment.goodput for moment in each.timeline] for each in found),
    ]


def test_load_that_pipelines_change_is_drawn_for_each() -> None:
    """Users that wait for their answers make fewer calls while answers are late."""
    found = lived(
        {"patient": Timeout(9), "hasty": Timeout(0.5)},
        loads=(Closed(20, think=Constant(0.5)),),
        faults=(Stall(start=5, end=10),),
    )
    figure = figure_of(found)

    assert drawn(figure.axes[0])[:2] == [
        (color, [moment.offered for moment in each.timeline]) for color, each in zip(COLORS, found, strict=False)
    ]
    assert legend(figure)[0] == "calls made with each"
    assert legend(figure_of(lived({"a": Timeout(1)})))[0] == "calls made"


def test_lines_that_coincide_show_the_markers_of_all() -> None:
    """No marker covers another one, and the legend names candidates with the same results."""
    found = lived({"once": Timeout(1), "roomy": Pipeline(Bulkhead(1000), Timeout(1)), "twice": Retry(2, wait=0)})
    figure = figure_of(found)

    places = [set(places) for marker, places in plotted(panel(figure, "requests per")) if marker in (*MARKERS,)]
    assert len(places) == 3
    assert all(places)
    assert not places[0] & places[1]
    assert [label.partition(", same as ")[2] for label in legend(figure)] == ["", "", "once", ""]


def test_last_step_that_is_cut_short_is_not_drawn() -> None:
    """Its rates would be those of a part of a step."""
    figure = figure_of(lived({"once": Timeout(1)}, duration=20.01))

    (found,) = lived({"once": Timeout(1)}, duration=20.01)
    assert len(drawn(panel(figure, "successes that"))[0][1]) == len(found.timeline) - 1


def test_panel_of_zeros_is_left_out() -> None:
    """Circuits that never open have no panel; circuits that open have one."""
    shut = {"open": CircuitBreaker(0.9, min_calls=1000)}
    calm = figure_of(lived(shut, faults=(Errors(start=5, share=0.1),)))

    assert not any("circuits" in axes.get_ylabel() for axes in calm.axes)


def test_plot_says_when_each_has_recovered() -> None:
    """A candidate that never recovers has a bar to the end."""
    figure = figure_of(lived({"once": Timeout(1), "stubborn": STUBBORN}))
    recovery = panel(figure, "recovery of")

    assert [text.get_text() for text in recovery.texts] == ["0 s", "never"]
    bars = [places for _, places in plotted(recovery) if len(places) == 2]
    assert bars == [[10, 10], [10, 20]]


def test_plot_says_that_recovery_is_not_measurable() -> None:
    """The plot says so if the calls end too early, and has no such panel if no fault ends."""
    figure = figure_of(lived({"once": Timeout(1)}, faults=(Errors(start=5, end=17),)))
    assert [text.get_text() for text in panel(figure, "recovery of").texts] == ["not measurable"]

    calm = figure_of(lived({"once": Timeout(1)}, faults=(Errors(start=5),)))
    assert not any("recovery" in axes.get_ylabel() for axes in calm.axes)


NAMES = ("_hidden", "$5 or $6", "$x", "名前", "\x1b[31mred\x1b[0m", "a\nb", "x" * 200, "{}%s")


def test_any_name_can_be_drawn(tmp_path: Path) -> None:
    """A name is shown unchanged, or its end if it is long, without a warning, and not as a formula."""
    found = lived(dict.fromkeys(NAMES, Timeout(1)), duration=2, faults=(), title=", ".join(NAMES))
    figure = figure_of(found)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(found, tmp_path / "out.png")

    _, *labels = legend(figure)
    assert len(labels) == len(NAMES)
    assert all("% of all succeed" in label and len(label) < 100 and label.isprintable() for label in labels)


def test_pipeline_without_a_success_can_be_drawn(tmp_path: Path) -> None:
    """There is no latency to draw, and none with a logarithm if answers take no time."""
    draw(lived({"once": Timeout(1)}, service=ServicePlan(), faults=()), tmp_path / "out.png")
    draw(lived({"once": Timeout(1)}, faults=(Errors(),)), tmp_path / "out.png")

    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("seconds", [0.00002, 0.0002, 0.02, 2.0])
def test_latencies_of_any_size_have_an_axis_with_numbers(seconds: float) -> None:
    """The axis has several ticks, and no two show the same number."""
    service = ServicePlan(Exponential(seconds))
    axes = panel(figure_of(lived({"once": Timeout(9)}, service=service, faults=())), "latency")

    shown = [axes.yaxis.get_major_formatter()(tick) for tick in axes.get_yticks()]
    assert len(set(shown)) == len(shown) > 1
