"""Cases of the alerts on the error budget: series that make each fire, and series that just do not."""

from __future__ import annotations

from tests.observe.alert_case import DAYS, GOOD, USERS, Case, b, calls

__all__ = ["CASES"]

CASES: dict[str, tuple[Case, ...]] = {
    "ResilientErrorBudgetBurnsFast": (
        Case(
            about="2% of the calls fail for 20 minutes",
            series={**GOOD, calls("failure"): "0x40 0+12x60"},
            fires=(USERS,),
            at=100,
        ),
        Case(
            about="it is over for 8 minutes: the short window has ended",
            series={**GOOD, calls("failure"): "0x40 0+60x60 3600x60"},
            at=108,
        ),
        Case(
            about="half of the bad calls are cancelled or mistakes of the caller",
            series={
                **GOOD,
                calls("cancelled"): "0+60x200",
                calls("failure", "nothing"): "0+60x200",
                calls("failure", "success"): "0+60x200",
                calls("failure"): "0+6x200",
            },
            at=100,
        ),
        Case(
            about="refusals and timeouts are bad, in two processes of which one restarts",
            series={
                **GOOD,
                calls("rejected", scrape=b): "0+10x60 0+10x60",
                calls("timeout", scrape=b): "0+10x60 0+10x60",
                calls("success", scrape=b): "0+100x60 0+100x60",
            },
            fires=(USERS,),
            at=100,
        ),
        Case(
            about="there are too few bad calls",
            series={calls("success"): "0x10 1x200", calls("failure"): "0x30 1x20 2x200"},
            at=55,
        ),
        Case(about="there are no calls", series={calls("success"): "0x200", calls("failure"): "0x200"}, at=100),
        Case(
            about="all calls fail, and none has ever succeeded",
            series={calls("failure"): "0+3x200"},
            fires=(USERS,),
            at=100,
        ),
    ),
    "ResilientErrorBudgetBurns": (
        Case(
            about="1% of the calls fail for hours",
            series={**GOOD, calls("failure"): "0+6x1000"},
            fires=(USERS,),
            at=500,
            every=2,
        ),
        Case(about="0.5% of the calls fail for hours", series={**GOOD, calls("failure"): "0+3x1000"}, at=500, every=2),
    ),
    "ResilientErrorBudgetBurnsSlowly": (
        Case(
            about="0.2% of the calls time out for days",
            series={calls("success"): f"0+600x{DAYS}", calls("timeout"): f"0+1.2x{DAYS}"},
            fires=(USERS,),
            at=DAYS,
            every=5,
        ),
        Case(
            about="0.05% of the calls time out for days",
            series={calls("success"): f"0+600x{DAYS}", calls("timeout"): f"0+0.3x{DAYS}"},
            at=DAYS,
            every=5,
        ),
    ),
}
