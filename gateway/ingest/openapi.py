"""The description of the HTTP side: OpenAPI 3.1, made of the very structs that requests are decoded with."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import msgspec

from gateway.access.principal import Scope
from gateway.ingest import answers, credentials, webhooks
from gateway.ingest.administration import WantedKey
from gateway.ingest.lookup import NEXT_CURSOR
from gateway.ingest.media import JSON, NDJSON
from gateway.ingest.problem import CONTENT_TYPE
from gateway.ingest.recipients import Recipient
from gateway.ingest.submission import JobDocument, JobLine
from gateway.receipts.states import Receipt

_REF = "#/components/schemas/"
_COMPONENTS = (
    JobDocument,
    JobLine,
    Recipient,
    Receipt,
    answers.Accepted,
    answers.ProblemDetails,
    answers.JobReport,
    answers.Wanted,
    answers.Found,
    answers.DeadTokens,
    answers.ParkedPage,
    answers.ParkedContents,
    credentials.NewCredential,
    credentials.CredentialList,
    credentials.CredentialHistory,
    webhooks.WebhookList,
    webhooks.WebhookTrial,
    answers.KeyList,
    answers.CreatedKey,
    answers.AuditPage,
    WantedKey,
)

Node = dict[str, Any]


@functools.cache
def job_schema() -> dict[str, Any]:
    """A JSON Schema of a job as one document: a request's body, and a record's value in Kafka."""
    kinds = (JobDocument, Recipient)
    _, schemas = msgspec.json.schema_components(kinds, ref_template="#/$defs/{name}")
    schemas["JobDocument"]["properties"]["recipients"] = {
        "type": "array",
        "minItems": 1,
        "items": {"$ref": "#/$defs/Recipient"},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A job for Carillon",
        "$ref": "#/$defs/JobDocument",
        "$defs": schemas,
    }


def document() -> bytes:
    """The description as JSON."""
    _, schemas = msgspec.json.schema_components(_COMPONENTS, ref_template=_REF + "{name}")
    # The one field that is decoded later than the rest, so that its struct does not say what it holds.
    schemas["JobDocument"]["properties"]["recipients"] = {"type": "array", "minItems": 1, "items": _ref("Recipient")}
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "Carillon",
                "version": version("carillon"),
                "description": "Push notifications over APNs, FCM and Web Push. A receipt says what the push service"
                " answered; `accepted` never means delivered. Instants are RFC 3339 in requests and UNIX seconds in"
                " answers. The tenant comes from the credential alone: what another tenant has is unknown (404).",
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "paths": _paths(),
            "components": {"schemas": schemas, "securitySchemes": _SCHEMES},
        }
    )


def _paths() -> Node:
    return {
        "/v1/jobs": {"post": _submit()},
        "/v1/jobs/{id}": {
            "parameters": [_path("A job's id.")],
            "get": _operation(Scope.READ, "getJob", "How far a job has come.", {"200": _answer("JobReport")}, 404, 503),
            "delete": _operation(
                Scope.SEND,
                "cancelJob",
                "Cancel what is not yet sent. What is on the wire goes its way, and cancelling twice does no harm.",
                {"202": _answer("JobReport")},
                *(404, 503),
            ),
        },
        "/v1/jobs/{id}/receipts": {"parameters": [_path("A job's id.")], "get": _receipts()},
        "/v1/receipts": {
            "post": _operation(
                Scope.READ,
                "findReceipts",
                "Receipts by delivery ids.",
                {"200": _answer("Found") | _links({"getDelivery": "/receipts/0/id"})},
                *(400, 408, 413, 415, 422, 503),
            )
            | {"requestBody": {"required": True, "content": _content("Wanted")}}
        },
        "/v1/deliveries/{id}": {
            "parameters": [_path("A delivery's id.")],
            "get": _operation(Scope.READ, "getDelivery", "One delivery.", {"200": _answer("Receipt")}, 404, 503),
        },
        "/v1/tokens/invalid": {
            "get": _operation(
                Scope.READ,
                "listDeadTokens",
                "Targets declared dead, oldest first.",
                {"200": _answer("DeadTokens")},
                400,
                503,
            )
            | {"parameters": [_query("app", "Whose.", {"type": "string"}, required=True), *_CURSOR]}
        },
        "/v1/parked": {
            "get": _operation(
                Scope.OPERATE,
                "listParked",
                "Batches that nobody sends any more, because process after process died with them, oldest first. They"
                " stay until they are replayed, purged or cancelled, or their job expires.",
                {"200": _answer("ParkedPage") | _links(dict.fromkeys(_OF_PARKED, "/parked/0/id"))},
                *(400, 503),
            )
            | {"parameters": _CURSOR}
        },
        "/v1/parked/{id}": {
            "parameters": [_PARKED_ID],
            "get": _operation(
                Scope.OPERATE,
                "getParked",
                "What a parked batch holds, masked.",
                {"200": _answer("ParkedContents")},
                404,
                503,
            ),
            "delete": _operation(
                Scope.OPERATE,
                "purgeParked",
                "End a parked batch. What was never sent gets the receipt `dead_lettered`, what may have reached its"
                " device `unknown`.",
                {"200": _answer("ParkedReport")},
                *(404, 503),
            ),
        },
        "/v1/parked/{id}/replay": {
            "parameters": [_PARKED_ID],
            "post": _operation(
                Scope.OPERATE,
                "replayParked",
                "Send a parked batch once more, from where it was. One more death parks it again.",
                {"202": _answer("ParkedReport")},
                *(404, 503),
            ),
        },
        "/v1/credentials": {
            "get": _operation(
                Scope.OPERATE,
                "listCredentials",
                "Credentials of the apps, without their secrets.",
                {"200": _answer("CredentialList")},
                503,
            ),
            "post": _operation(
                Scope.OPERATE,
                "addCredential",
                "Check a credential and store it encrypted. It signs nothing until it is rotated in.",
                {"201": _answer("CredentialReport") | _links(dict.fromkeys(_OF_A_CREDENTIAL, "/id"))},
                *(400, 408, 413, 415, 422, 503),
            )
            | {"requestBody": {"required": True, "content": _content("NewCredential")}},
        },
        "/v1/credentials/history": {
            "get": _operation(
                Scope.OPERATE,
                "listCredentialSteps",
                "What happened to them, oldest first.",
                {"200": _answer("CredentialHistory")},
                400,
                503,
            )
            | {"parameters": _CURSOR}
        },
        **{
            f"/v1/credentials/{{id}}/{operation.removesuffix('Credential')}": {
                "parameters": [_path("A credential's number.")],
                "post": _operation(
                    Scope.OPERATE, operation, summary, {"200": _answer("CredentialReport")}, 404, 409, 503
                ),
            }
            for operation, summary in _OF_A_CREDENTIAL.items()
        },
        "/v1/webhooks": {
            "get": _operation(
                Scope.OPERATE,
                "listWebhooks",
                "Who is told of receipts, and how each of them stands.",
                {"200": _answer("WebhookList") | _links(dict.fromkeys(_OF_A_WEBHOOK, "/webhooks/0/id"))},
                503,
            ),
        },
        **{
            f"/v1/webhooks/{{id}}/{operation.removesuffix('Webhook')}": {
                "parameters": [_path("The names of app and endpoint, with a dot between them.")],
                "post": _operation(
                    Scope.OPERATE,
                    operation,
                    summary,
                    {"200": _answer("WebhookTrial" if operation == "testWebhook" else "WebhookReport")},
                    *((400, 404, 503) if operation == "replayWebhook" else (404, 503)),
                )
                | ({"parameters": [_SINCE]} if operation == "replayWebhook" else {}),
            }
            for operation, summary in _OF_A_WEBHOOK.items()
        },
        "/v1/keys": {
            "get": _operation(
                Scope.OPERATE, "listKeys", "The tenant's API keys, the oldest first.", {"200": _answer("KeyList")}, 503
            ),
            "post": _operation(
                Scope.OPERATE,
                "createKey",
                "Make an API key of the tenant, with no more than the credential has that asks for it. A name has two"
                " that are good at a time: make the second, change over, revoke the first.",
                {"201": _answer("CreatedKey") | _links({"revokeKey": "/key/id"})},
                *(400, 408, 409, 413, 415, 422, 503),
            )
            | {"requestBody": {"required": True, "content": _content("WantedKey")}},
        },
        "/v1/keys/{id}": {
            "parameters": [_path("A key's id.")],
            "delete": _operation(
                Scope.OPERATE,
                "revokeKey",
                "End a key for good. It is refused everywhere within a second; twice does no harm.",
                {"200": _answer("KeyReport")},
                *(404, 503),
            ),
        },
        "/v1/audit": {
            "get": _operation(
                Scope.OPERATE,
                "listAudit",
                "What the tenant's people did to keys, credentials, jobs and parked batches, oldest first.",
                {"200": _answer("AuditPage")},
                *(400, 503),
            )
            | {"parameters": _CURSOR}
        },
        "/openapi.json": {
            "get": {
                "operationId": "getDescription",
                "summary": "This description.",
                "security": [],
                "responses": {"200": {"description": "OK", "content": {JSON: {"schema": {"type": "object"}}}}},
            }
        },
    }


def _submit() -> Node:
    accepted = _answer("Accepted") | _links(dict.fromkeys(_OF_A_JOB, "/job"))
    accepted["headers"] = {
        "Location": _header("Where the job's report is."),
        "Idempotent-Replayed": _header("`true`: this is the answer that an earlier request with the same key got."),
        **_RATES,
    }
    operation = _operation(
        Scope.SEND,
        "submitJob",
        "Submit a job. It is on stable storage when the answer comes; before, nothing of it is sent.",
        {"202": accepted},
        *(400, 408, 409, 413, 415, 422, 429, 503),
    )
    operation["responses"]["429"]["headers"] = {"Retry-After": _header("Seconds to wait."), **_RATES}
    operation["parameters"] = [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "description": "Of the caller's choice, new for each job of an app: a repeat of the request gets the first"
            " answer again. With another body it gets 422, and 409 while the first is being answered. A request that"
            " broke off leaves nothing behind, and its key is free.",
            "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
        }
    ]
    lines = {
        "schema": {
            "type": "string",
            "description": f"A line that is a job ({_REF}JobLine), then any number of lines that are a recipient each"
            f" ({_REF}Recipient). They are stored as they arrive, and sent when all have.",
        }
    }
    operation["requestBody"] = {"required": True, "content": {**_content("JobDocument"), NDJSON: lines}}
    return operation


def _receipts() -> Node:
    page = {
        "description": f"A receipt ({_REF}Receipt) a line. Follow `Link` until there is none: then these were the last"
        " ones. An empty page with a `Link` says that the job goes on; ask again after `Retry-After` seconds.",
        "headers": {
            NEXT_CURSOR: _header("The `after` of the next page."),
            "Link": _header('The next page, `rel="next"`; absent after the last receipt of a finished job.'),
            "Retry-After": _header("Seconds to wait, on an empty page."),
        },
        "content": {NDJSON: {"schema": {"type": "string"}}},
    }
    operation = _operation(
        Scope.READ,
        "listReceipts",
        "A job's receipts in the order in which they were stored. This is where a recipient's delivery is found: each"
        " carries the recipient's id and the delivery's.",
        {"200": page},
        *(400, 404, 503),
    )
    operation["parameters"] = _CURSOR
    return operation


def _operation(scope: Scope, name: str, summary: str, answers: Node, *problems: int) -> Node:
    refusals = {str(status): _answer("ProblemDetails", CONTENT_TYPE) for status in sorted({401, 403, *problems})}
    security = [{scheme: [scope.value]} for scheme in _SCHEMES]
    return {"operationId": name, "summary": summary, "security": security, "responses": {**answers, **refusals}}


def _answer(name: str, kind: str = JSON) -> Node:
    return {"description": name, "content": _content(name, kind)}


def _links(followers: Mapping[str, str]) -> Node:
    """What can be asked next: operation -> where in this answer its `id` stands."""
    return {
        "links": {
            operation: {"operationId": operation, "parameters": {"id": f"$response.body#{pointer}"}}
            for operation, pointer in followers.items()
        }
    }


def _content(name: str, kind: str = JSON) -> Node:
    return {kind: {"schema": _ref(name)}}


def _ref(name: str) -> Node:
    return {"$ref": _REF + name}


def _header(description: str) -> Node:
    return {"description": description, "schema": {"type": "string"}}


def _path(description: str) -> Node:
    return {"name": "id", "in": "path", "required": True, "description": description, "schema": {"type": "string"}}


def _query(name: str, description: str, schema: Node, *, required: bool = False) -> Node:
    return {"name": name, "in": "query", "required": required, "description": description, "schema": schema}


_SCHEMES: Node = {
    "key": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, or a token (JWT) of a configured issuer. Each operation names the scope it needs.",
    },
    "certificate": {"type": "mutualTLS", "description": "A client certificate that is configured."},
}

_RATES = {
    "RateLimit-Policy": {"description": "The tenant's limits, if it has any.", "schema": {"type": "string"}},
    "RateLimit": {"description": "What is left of them.", "schema": {"type": "string"}},
}

_OF_A_JOB = ("getJob", "cancelJob", "listReceipts")
_OF_PARKED = ("getParked", "replayParked", "purgeParked")
"""Operations on one, by its id."""

_OF_A_CREDENTIAL = {
    "probeCredential": "Ask its service whether it takes it, without any device noticing.",
    "rotateCredential": "Probe it, and let it sign 1 %, 10 % and then all of the notifications, or go back by itself.",
    "promoteCredential": "Let it sign everything now; the one before is kept to go back to.",
    "rollbackCredential": "Take it out; the one before signs again.",
    "retireCredential": "Forget its secret.",
}

_OF_A_WEBHOOK = {
    "enableWebhook": "Send again to an endpoint that was disabled, from where it was.",
    "replayWebhook": "Try its exhausted messages again; with `since`, tell it once more all that ended from then on.",
    "testWebhook": "Send it a message that tells of nothing, now.",
}

_SINCE = _query("since", "UNIX seconds.", {"type": "integer", "minimum": 0, "maximum": 999_999_999_999})

_PARKED_ID = _path("The batch's id, which is that of its first delivery, or that of any other of its deliveries.")

_CURSOR = [
    _query(
        "after",
        "A cursor that a former page gave; the start without it.",
        {"type": "string", "pattern": "^[0-9]{1,18}$"},
    ),
    _query("limit", "Most entries on the page.", {"type": "integer", "minimum": 1, "maximum": 10_000, "default": 1000}),
]
