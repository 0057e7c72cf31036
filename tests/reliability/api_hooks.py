"""What no document can tell Schemathesis: ids that exist, and what is configured. Loaded by `test_api_fuzz`.

In half of the requests what was generated stays as it is. Which half is drawn from the request itself, so that a seed
gives the same run again.
"""

from __future__ import annotations

import json
import os
import zlib
from typing import Any

import schemathesis
from schemathesis import Case, HookContext
from schemathesis.generation.meta import TestPhase

KNOWN: dict[str, list[Any]] = json.loads(os.environ["CARILLON_KNOWN"])
"""`ids` of jobs, deliveries and parked batches, `recipients` who can be reached, and the caller's `own` key."""


@schemathesis.hook
def map_case(_context: HookContext, case: Case) -> Case:
    """Half of those requests that keep to the document are made to concern what there is."""
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return case
    linked = case.meta.phase.name is TestPhase.STATEFUL  # to what an answer gave
    if case.path_parameters and not linked and _chosen(case.path_parameters):
        case.path_parameters = {**case.path_parameters, "id": _choice("ids", case.path_parameters)}
    if case.query and "app" in case.query and _chosen(case.query):
        case.query = {**case.query, "app": "shop"}
    if isinstance(case.body, dict) and _chosen(case.body):
        case.body = _known(case.body)
    return case


@schemathesis.hook
def before_call(_context: HookContext, case: Case, _arguments: dict[str, Any]) -> None:
    """Whoever revokes the key that they call with is refused from then on: not done here."""
    if case.path == "/v1/keys/{id}" and case.path_parameters.get("id") == KNOWN["own"][0]:
        case.path_parameters = {"id": "key_0"}


def _known(body: dict[str, Any]) -> dict[str, Any]:
    """An app that is configured, and a recipient who can be reached; or ids of deliveries."""
    if "deliveries" in body:
        return {**body, "deliveries": KNOWN["ids"]}
    if "recipients" not in body:
        return body
    return {**body, "app": "shop", "recipients": [*body["recipients"], _choice("recipients", body)]}


def _chosen(value: Any) -> bool:
    return _drawn(value) % 2 == 0


def _choice(kind: str, value: Any) -> Any:
    return KNOWN[kind][_drawn(value) // 2 % len(KNOWN[kind])]


def _drawn(value: Any) -> int:
    return zlib.crc32(repr(value).encode("utf-8", "surrogatepass"))
