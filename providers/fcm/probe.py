"""A request that tells whether FCM takes a credential, and that no device can get.

The access token's exchange comes first and tells most. Then a message with `validate_only`, which FCM checks and does
not deliver, goes to a topic that nobody subscribes to: 200 proves that the account may send for the project.

https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages/send
"""

from __future__ import annotations

from providers.base import Credential, Exchange, Headers, Outcome, Verdict
from providers.fcm import response
from providers.fcm.settings import FcmSettings

BODY = b'{"validate_only":true,"message":{"topic":"carillon-probe","data":{"probe":"1"}}}'


def request(settings: FcmSettings, credential: Credential, endpoint: str, now: float) -> Exchange:
    signed = credential.headers(endpoint, now)
    assert signed is not None, "the exchange came first"
    headers = (*signed, (b"content-type", b"application/json"))
    return Exchange(f"{endpoint}/v1/projects/{settings.project}/messages:send", headers, BODY)


def proof(status: int, headers: Headers, body: bytes, now: float) -> Outcome:
    outcome = response.outcome(status, headers, body, now)
    if outcome.verdict in (Verdict.ACCEPTED, Verdict.CREDENTIAL):
        return outcome
    if status == 400:  # it was looked at, and so was who sent it
        return Outcome(Verdict.ACCEPTED, outcome.reason)
    return Outcome(Verdict.UNAVAILABLE, outcome.reason, retry_after=outcome.retry_after)
