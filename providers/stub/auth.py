"""How the stub's requests are signed: a bearer key that never changes.

In a provider of your own: load what signs, mint from it what each request carries, and say when it is due anew. A
credential that needs a request answered first (OAuth) asks for it with `exchange`; `providers/fcm/auth.py` shows that.
"""

from __future__ import annotations

from providers.base import ClientCertificate, Exchange, Headers, Material, Outcome, Verdict
from providers.keys import check_parts, fingerprint, text
from providers.stub.settings import StubSettings

PARTS = frozenset({"key"})


class BearerKey:
    """A `Credential`: the same header field for ever."""

    client_certificate: ClientCertificate | None = None
    expires_at: float | None = None

    key_id = ""

    def __init__(self, settings: StubSettings, material: Material | None = None) -> None:
        key = settings.key.get_secret_value()
        if material is not None:
            check_parts(material, PARTS, *PARTS)
            key = text(material, "key")
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise ValueError("key: has to be visible ASCII characters without spaces")
        self.fingerprint = fingerprint(b"stub", key.encode())
        self._headers = ((b"authorization", b"Bearer " + key.encode()),)

    def __repr__(self) -> str:
        return f"<BearerKey {self.fingerprint}>"

    def headers(self, origin: str, now: float) -> Headers | None:
        return self._headers

    def exchange(self, now: float) -> Exchange | None:
        return None

    def exchanged(self, status: int, headers: Headers, body: bytes, now: float) -> Outcome:
        return Outcome(verdict=Verdict.ACCEPTED)

    def renew(self, now: float) -> None:
        """Nothing was minted; only an operator can cure a refused key."""
