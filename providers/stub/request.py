"""What the stub service wants: `POST /push/{token}` with a JSON body.

In a provider of your own: `targets` says which recipients can be reached and makes columns of their addresses,
`document` makes the service's JSON of a message, `check` finds what the service would refuse for every recipient, and
a plan's `render` makes a slice's header values and bodies from columns, with no work per recipient that can be done
once per message.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

from providers import template
from providers.base import (
    Alike,
    Head,
    Headers,
    Message,
    Outcome,
    Problem,
    Recipient,
    Rendered,
    Rows,
    Targets,
)
from providers.merge import merge
from providers.stub import response
from providers.template import Slot, Template
from providers.tokens import token_targets

LONGEST_BODY = 4096


def targets(recipients: Sequence[Recipient]) -> Targets:
    """One column: the token, which goes into the path, so nothing but harmless characters may be in it."""
    return token_targets(
        recipients,
        alphabet=string.ascii_letters.encode() + string.digits.encode() + b"_-",
        lengths=range(1, 201),
        refusal="token: has to be 1 to 200 letters, digits, hyphens and underscores",
    )


def document(message: Message) -> dict[str, Any]:
    """The body: what the message has, and the `stub` block merged last. The service knows no images and links."""
    parts = (("title", message.title), ("body", message.body))
    extras = (("image", message.image), ("link", message.link))
    data = {**{name: text for name, text in extras if text is not None}, **message.data}
    body: dict[str, Any] = {"id": Slot("id"), **{name: text for name, text in parts if text is not None}}
    if data:
        body["data"] = data
    merged: dict[str, Any] = merge(body, message.stub)
    return merged


def check(message: Message) -> list[Problem]:
    """Whatever is wrong for all recipients; found before anything is stored."""
    found = template.problems(message)
    if not found and _compile(message).least > LONGEST_BODY:
        found.append(Problem("/message", f"the body is larger than {LONGEST_BODY} bytes for every recipient"))
    return found


def _compile(message: Message) -> Template:
    return template.compile(document(message), template.variables(message), slots=("id",))


class StubPlan:
    """A `Plan`: one message for one app."""

    slice = 250
    bare_accept = True

    def __init__(self, message: Message, origin: str) -> None:
        self._template = _compile(message)
        self._fixed = (
            (b":method", b"POST"),
            (b":scheme", b"https"),
            (b":authority", origin.removeprefix("https://").encode()),
            (b"content-type", b"application/json"),
        )

    def head(self, auth: Headers, now: float) -> Head:
        return Head(self._fixed + auth, (), (b":path",))

    def render(self, rows: Rows, now: float) -> Rendered:
        texts = self._template.render(rows.variables, (rows.ids,), len(rows.ids))
        template.reject_oversized(texts, LONGEST_BODY)
        return Rendered(([b"/push/" + token for token in rows.targets[0]],), texts.bodies, texts.rejected)

    def outcome(self, status: int, headers: Headers, body: bytes, now: float) -> Outcome:
        return response.outcome(status, headers, body, now)

    def provider_ids(self, alike: Alike) -> Sequence[str] | None:
        return None
