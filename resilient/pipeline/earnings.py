"""Earnings of a success: tokens of the pipeline's budgets, which pay for later extra requests; and watches of calls.

earnings             pays each success into the budgets
earning              pays each success of a `Recovery` into the budgets
watched_earnings     calls watches, too, for each success
watched_recovery     calls watches for each call that did not succeed at once
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from resilient.core.budget import Budget
from resilient.core.call import Call
from resilient.core.context import PipelineContext
from resilient.core.layer import Recovery, Watch

__all__ = ["Earn", "earning", "earnings", "watched_earnings", "watched_recovery"]

Earn = Callable[[Call, Any], None]
"""Called with a call and its result when the call has succeeded."""


def earnings(budgets: Sequence[Budget], context: PipelineContext, *, substitutes: bool) -> Earn | None:
    """A function that pays into the budgets of a pipeline if a call's result is a success of the dependency; None if
    there are no budgets.

    `substitutes`: whether a policy of the pipeline may answer in the dependency's place. Such an answer pays nothing.
    """
    if not budgets:
        return None

    options, verdict_on = context.call_options, context.on_result
    judges_results, dependency_of = context.classifier.judges_results, options.dependency

    def earn(call: Call, result: Any) -> None:
        if substitutes and call.is_substituted:
            return
        if not judges_results or verdict_on(call, result).kind == "success":
            for budget in budgets:
                budget.earn()

    def earn_each(call: Call, result: Any) -> None:
        if substitutes and call.is_substituted:
            return
        if not judges_results or verdict_on(call, result).kind == "success":
            dependency = dependency_of(call)
            for budget in budgets:
                try:
                    budget.each[dependency].earned += 1  # `Budget.earn`, inlined
                except KeyError:
                    budget.of(dependency).earn()

    if options.has_dependencies:
        return earn_each
    if len(budgets) > 1 or judges_results or substitutes:
        return earn
    return budgets[0].earn


def earning(recover: Recovery, earn: Earn) -> Recovery:
    """A `Recovery` that calls `earn` with each result of `recover`."""

    async def paid(call: Call, recovery: Coroutine[Any, Any, Any]) -> Any:
        result = await recovery
        earn(call, result)
        return result

    def earned(call: Call, error: Exception) -> Coroutine[Any, Any, Any] | None:
        recovery = recover(call, error)
        return None if recovery is None else paid(call, recovery)

    return earned


def watched_earnings(earn: Earn | None, watches: Sequence[Watch]) -> Earn:
    """An `Earn` that also calls `watches` at each success; `earn` is None where there are no budgets."""

    def succeeded(call: Call, result: Any) -> None:
        if earn is not None:
            earn(call, result)
        for watch in watches:
            watch(call, result, None)

    return succeeded


def watched_recovery(recover: Recovery | None, watches: Sequence[Watch]) -> Recovery:
    """A `Recovery` that also calls `watches` at the end of the call, with its last result or error."""

    async def recovered(call: Call, error: Exception) -> Any:
        result: Any = None
        failure: Exception | None = error
        try:
            recovery = None if recover is None else recover(call, error)
            if recovery is not None:
                try:
                    result = await recovery
                except Exception as last:
                    failure = last
                else:
                    failure = None
            for watch in watches:
                watch(call, result, failure)
            if failure is not None:
                raise failure
            return result
        finally:
            del error, failure  # their tracebacks refer to this frame

    return recovered
