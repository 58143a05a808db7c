"""Options of a call itself, which its policies respect: its dependency, its number of attempts, and whether its caller
repeats it.

The call of a plain function has none (`CallOptions`, and `NO_OPTIONS`, which every pipeline has by default). A request
has some: by its URL, its headers and its extensions (`resilient.http.options.RequestOptions`). A `PipelineContext`
holds the options. Transports set them when they derive their pipeline from the user's.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from resilient.core.call import Call, name_of

__all__ = ["NO_OPTIONS", "CallOptions"]


class CallOptions:
    """The options of calls that ask for nothing.

    Attributes:
        has_dependencies: whether calls of one pipeline go to several dependencies, each with a budget of its own. If
            not, `dependency` is not called for each success.
        leaves_repeating: whether a call is not repeated if it is part of another call that is.
        assumes: sentences about what explanations of pipelines assume about these calls.
    """

    has_dependencies: bool = False
    leaves_repeating: bool = False
    assumes: tuple[str, ...] = ()

    def dependency(self, call: Call) -> Hashable | None:
        """The key of the dependency that a call goes to; None: the pipeline has only one."""
        return None

    def is_repeated(self, call: Call) -> bool:
        """Whether the caller repeats this call, so that its pipeline must not."""
        return False

    def words(self, call: Call) -> str:
        """A few words for a call, in reports for people: the name of its function."""
        return name_of(call.fn)

    def attempts(self, call: Call) -> int | None:
        """The most attempts of this call, instead of those of the Retry; None: those of the Retry."""
        return None

    def attributes(self, call: Call) -> Mapping[str, str | int]:
        """What a call asks for, by the attribute keys of OpenTelemetry's conventions; empty: nothing is known."""
        return _NO_ATTRIBUTES


_NO_ATTRIBUTES: Mapping[str, str | int] = {}


NO_OPTIONS = CallOptions()
"""The options of calls in pipelines that were given no others."""
