"""The answers of the service of a world, and the errors with which a simulated call ends."""

from __future__ import annotations

from typing import Any

from resilient.core.pushback import FAILURE_STATUSES

__all__ = ["ANSWER", "OK", "BadAnswer", "CandidateError", "ServiceError", "is_good", "outcome_of"]

ANSWER = "answer"
"""The result of every request that succeeds."""

OK = 200
"""The status of a successful answer, unless the scenario's calls give others."""


def is_good(status: int) -> bool:
    """Whether an answer with this status counts as a success of the service."""
    return status < 500 and status not in FAILURE_STATUSES


class ServiceError(Exception):
    """The service has answered with an error.

    Attributes:
        status: as in HTTP.
        retry_after: the pause in seconds for which the service asks the client, or None.
    """

    def __init__(self, status: int, retry_after: float | None = None) -> None:
        super().__init__(status)
        self.status = status
        self.retry_after = retry_after


class BadAnswer(Exception):
    """A call has returned a result, but the status of this result is that of a failure.

    Attributes:
        status: as in HTTP.
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


class CandidateError(Exception):
    """A pipeline cannot be simulated: it cannot handle the calls of the world, or it raised a programming error."""


def outcome_of(error: Any) -> str:
    """The name under which a failed call is counted: the class of its error, with the HTTP status of the response that
    the error carries, if any."""
    if type(error) is BadAnswer:
        return str(error)
    name = type(error).__name__
    try:
        status: object = error.response.status_code
    except Exception:
        return name
    return f"{name} ({status})" if isinstance(status, int) else name
