"""Media types: what bodies may be sent as."""

from __future__ import annotations

from aiohttp import web

from gateway.ingest.problem import Refused

JSON = "application/json"
NDJSON = "application/x-ndjson"

_ENCODED = "Send the body as it is: compressed ones are not taken."
_CHARSET = "Send it in UTF-8; JSON has no other encoding (RFC 8259, section 8.1)."


def content_type(request: web.Request, *known: str) -> str:
    """The media type of a request's body.

    Raises:
        Refused: 415, it is not one of those known here, or the body is encoded.
    """
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Refused(415, _ENCODED, headers={"Accept-Encoding": "identity"})
    if request.content_type not in known:
        raise Refused(415, f"Send it as {' or '.join(known)}.", headers={"Accept-Post": ", ".join(known)})
    if (request.charset or "utf-8").lower() not in ("utf-8", "utf8"):
        raise Refused(415, _CHARSET)
    return request.content_type
