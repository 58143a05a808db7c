"""What the buttons of the page do: open, close and isolate circuits, and switch pipelines.

A button sends a JSON object:

    {"pid": 4711, "pipeline": "users", "policy": "1", "action": "open"}                    a CircuitBreaker
    {"pid": 4711, "pipeline": "users", "policy": "2", "gate": "CircuitBreaker[eu-1]", "action": "isolate"}
                                                                                           one circuit of a Keyed
    {"pid": 4711, "pipeline": "users", "policy": "", "action": "switch", "mode": "off"}     a pipeline, or a nested one

`policy` is a path as in the state ("2.0": the first policy of the nested pipeline that is the third policy). The mode
"default" ends the pipeline's own mode. `pid` is that of the state: with several worker processes a request may come to
another one than the page shows.
"""

from __future__ import annotations

import json
import os
from typing import Any, get_args

from resilient._validation import legible
from resilient.core.context import Mode
from resilient.observe.live.access import Refused
from resilient.observe.live.reading import find
from resilient.pipeline import Pipeline
from resilient.policies.breaker import CircuitBreaker
from resilient.policies.keyed import Keyed, table_of

__all__ = ["act"]

ACTIONS = ("open", "close", "isolate")
MODES = (*get_args(Mode), "default")


def act(body: bytes) -> str:
    """Do what the body of a request asks for. Returns a sentence about what was done. Raises `Refused` for a body that
    is not understood, for what is not there, and for another process."""
    asked = _object(body)
    if asked.get("pid") != os.getpid():
        raise Refused(409, "The page is of another process than the one that got this request. Load the page again.")
    pipeline, path, action = (_text(asked, name) for name in ("pipeline", "policy", "action"))
    try:
        found = find(pipeline, path)
    except LookupError as error:
        raise Refused(404, str(error.args[0])) from None
    where = legible(pipeline) + (f", policy {path}" if path else "")
    if action == "switch":
        return _switch(found, _text(asked, "mode"), where)
    if action not in ACTIONS:
        raise Refused(400, f"action must be one of {', '.join(ACTIONS)}, switch; got {legible(action)!r}")
    if "gate" in asked:
        name = _text(asked, "gate")
        found = _gate(found, name, where)
        where = f"{legible(pipeline)}, {legible(name)}"
    if not isinstance(found, CircuitBreaker):
        raise Refused(400, f"{where} is no CircuitBreaker")
    getattr(found, action)()
    return f"{where}: the circuit is {found.state}"


def _switch(found: Any, mode: str, where: str) -> str:
    if not isinstance(found, Pipeline):
        raise Refused(400, f"{where} is no pipeline, so it has no mode")
    if mode not in MODES:
        raise Refused(400, f"mode must be one of {', '.join(MODES)}; got {legible(mode)!r}")
    found.switch(None if mode == "default" else mode)  # type: ignore[arg-type]
    return f"{where}: the mode is {found.mode}"


def _gate(found: Any, name: str, where: str) -> Any:
    if not isinstance(found, Keyed):
        raise Refused(400, f"{where} is no Keyed, so it has no gates")
    gates = [entry.gate for entry in table_of(found).entries() if entry.gate.name == name]
    if len(gates) != 1:
        is_new = "is gone: it was evicted" if not gates else "is the name of several keys"
        raise Refused(409, f"{where}: {legible(name)} {is_new}")
    return gates[0]


def _object(body: bytes) -> dict[str, Any]:
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "the body must be a JSON object") from None
    if not isinstance(asked, dict):
        raise Refused(400, f"the body must be a JSON object, got {type(asked).__name__}")
    return asked


def _text(asked: dict[str, Any], name: str) -> str:
    value = asked.get(name)
    if not isinstance(value, str):
        raise Refused(400, f"{name} must be a text, got {legible(value)}")
    return value
