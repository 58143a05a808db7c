"""A misspelt name, at every place where a name is given: the message ends with the right one."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from resilient import Pipeline, Timeout
from resilient.cli.app import app
from resilient.faults import fault_from
from resilient.lab.distributions import Constant
from resilient.lab.load import Poisson
from resilient.lab.scenario_file import GALLERY
from resilient.lab.service import ServicePlan
from resilient.testing import record


@pytest.fixture(autouse=True)
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package and a scenario in the working directory."""
    (tmp_path / "near_shop").mkdir()
    (tmp_path / "near_shop" / "__init__.py").write_text("")
    (tmp_path / "near_shop" / "clients.py").write_text(
        "from resilient import standard\nfrom resilient.lab.calls import Calls\nusers = standard()\ncalls = Calls()\n"
    )
    text = (GALLERY / "brown-out.toml").read_text()
    (tmp_path / "mine.toml").write_text(text)
    (tmp_path / "loads.toml").write_text(text.replace("[load]", "[loads]").replace("[[load]]", "[[loads]]"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.mark.parametrize(
    ("arguments", "end"),
    [
        ("simulate brownout", "did you mean brown-out?"),
        ("simulate mine.tml", "did you mean mine.toml?"),
        ("simulate loads.toml", "loads.toml: load is missing: there is 'loads'"),
        ("simulate mine.toml --pipeline guardd", "did you mean guarded?"),
        ("simulate mine.toml --compare nne guarded", "did you mean none?"),
        ("simulate mine.toml --calls https", "--calls must be http or MODULE:NAME, got 'https'; did you mean http?"),
        ("simulate mine.toml --calls near_shop.clients:call", "its Calls are calls; did you mean calls?"),
        ("explain near_shop.clients:user", "its pipelines are users; did you mean users?"),
        ("explain near_shop.client:users", "of 'near_shop.client:users'; did you mean near_shop.clients?"),
        ("explain near_shp.clients:users", "of 'near_shp.clients:users'; did you mean near_shop?"),
    ],
)
def test_name_that_is_almost_right_is_answered_with_the_right_one(arguments: str, end: str) -> None:
    """One line with the right name, and exit code 2."""
    done = CliRunner().invoke(app, arguments.split())
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.endswith(f"{end}\n")


def test_event_that_is_almost_named_right_is_answered_with_the_right_name() -> None:
    """An assertion about a recording suggests the right event."""
    with (
        record(Pipeline(Timeout(1), name="users")) as recorder,
        pytest.raises(ValueError, match=r"; did you mean Retrying\?$"),
    ):
        recorder.assert_happened("Retryin")


@pytest.mark.parametrize(
    ("values", "end"),
    [({"balance": "least-busy"}, "did you mean least_busy?"), ({"priority": "normal "}, "did you mean normal?")],
)
def test_value_of_a_scenario_that_is_almost_right_is_answered_with_the_right_one(
    values: dict[str, Any], end: str
) -> None:
    """The balance of a service and the priority of a load have suggestions."""
    make = partial(ServicePlan, Constant(0.05)) if "balance" in values else partial(Poisson, rate=1)
    with pytest.raises(ValueError, match="must be one of") as caught:
        make(**values)
    assert end in str(caught.value)


@pytest.mark.parametrize(
    ("table", "end"),
    [
        ({"kind": "slow", "factor": 5}, "got 'slow'; did you mean slowness?"),
        ({"kind": "slowness", "factr": 5}, "factor, start, targets; did you mean factor?"),
    ],
)
def test_fault_that_is_almost_named_right_is_answered_with_the_right_name(table: dict[str, object], end: str) -> None:
    """The kind of a fault and its keys have suggestions."""
    with pytest.raises(ValueError, match=r"^fault") as caught:
        fault_from(table)
    assert str(caught.value).endswith(end)
