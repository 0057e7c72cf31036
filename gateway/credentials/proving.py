"""Asks a service whether it takes a credential, without any device noticing."""

from __future__ import annotations

import ssl
import time

from gateway.http2.pool import tls_context
from gateway.http2.single import RequestFailed, post
from providers.base import Credential, Outcome, Provider, ProviderSettings, Verdict

SELF_CHECKED = "it signs; the service has no request that proves it without a device"


async def prove(provider: Provider, block: ProviderSettings, credential: Credential) -> Outcome:
    """ACCEPTED (proven), CREDENTIAL (refuted) or UNAVAILABLE (nobody knows, try again), with the service's word."""
    now = time.time()
    if credential.expires_at is not None and credential.expires_at <= now:
        return Outcome(Verdict.CREDENTIAL, "it has expired")
    try:
        return await _prove(provider, block, credential)
    except ssl.SSLError as error:  # before anything was sent: OpenSSL cannot read what was handed in
        return Outcome(Verdict.CREDENTIAL, f"it cannot be used: {error.reason}")
    except RequestFailed as error:
        if credential.client_certificate is not None and _shaken(str(error)):
            return Outcome(Verdict.CREDENTIAL, f"no connection with this certificate: {error}")
        return Outcome(Verdict.UNAVAILABLE, str(error))


async def _prove(provider: Provider, block: ProviderSettings, credential: Credential) -> Outcome:
    exchange = credential.exchange(time.time())
    if exchange is not None:
        answer = await post(exchange, tls_context(block.ca_file))
        granted = credential.exchanged(answer.status, answer.headers, answer.body, time.time())
        if granted.verdict is not Verdict.ACCEPTED:
            return granted
    probe = provider.probe(block, credential, time.time())
    if probe is None:
        return Outcome(Verdict.ACCEPTED, SELF_CHECKED)
    answer = await post(probe, tls_context(block.ca_file, credential.client_certificate))
    return provider.proof(answer.status, answer.headers, answer.body, time.time())


def _shaken(reason: str) -> bool:
    """Whether the handshake is what failed."""
    return "TLS handshake" in reason
