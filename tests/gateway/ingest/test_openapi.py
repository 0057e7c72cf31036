"""The description says what the server does."""

from __future__ import annotations

import json

from openapi_spec_validator import OpenAPIV31SpecValidator

from gateway.ingest import openapi
from gateway.ingest.cursors import Cursors
from gateway.ingest.limits import Limits
from gateway.ingest.server import Ingest
from tests.gateway.fakes import (
    Counts,
    MemoryAudit,
    MemoryKeys,
    MemoryQueue,
    MemoryReceipts,
    NoCredentials,
    NoWebhooks,
    Unlimited,
)
from tests.gateway.ingest.conftest import APPS, PROVIDERS, Gateway


async def test_it_is_served_and_valid(gateway: Gateway) -> None:
    """OpenAPI 3.1."""
    async with gateway.session.get("/openapi.json") as response:
        assert (response.status, response.content_type) == (200, "application/json")
        description = await response.json()
    assert list(OpenAPIV31SpecValidator(description).iter_errors()) == []


async def test_it_names_every_route() -> None:
    """And none that is not there."""
    queue = MemoryQueue()
    ingest = Ingest(
        apps=APPS,
        providers=PROVIDERS,
        queue=queue,
        receipts=MemoryReceipts(queue),
        meter=Counts(),
        credentials=NoCredentials(),
        audit=MemoryAudit(),
        mask=str,
        keys=MemoryKeys(),
        cursors=Cursors(bytes(32)),
        allowance=Unlimited(),
        webhooks=NoWebhooks(),
    )
    served = {(guarded.route.path, guarded.route.method.lower()) for guarded in ingest.routes()}
    paths = json.loads(openapi.document())["paths"]
    described = {(path, method) for path, item in paths.items() for method in item if method != "parameters"}
    assert described == served


def test_its_limits_are_those_that_hold() -> None:
    """Numbers stand in two places, so they are compared."""
    description = json.loads(openapi.document())
    limit = description["paths"]["/v1/jobs/{id}/receipts"]["get"]["parameters"][1]["schema"]
    assert (limit["maximum"], limit["default"]) == (Limits().most, Limits().page)
    assert description["components"]["schemas"]["Recipient"]["properties"]["id"]["maxLength"] == 128
