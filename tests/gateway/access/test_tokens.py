"""Signed tokens: what is taken, and every forgery that is known of."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
import trustme
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from gateway.access.jwks import GAP, STALE, KeySet
from gateway.access.principal import Principal, Scope
from gateway.access.settings import Issuer
from gateway.access.tokens import Tokens
from gateway.egress.web import ANSWER

ISSUER, AUDIENCE, KID = "https://login.example/", "carillon", "key-1"
SIGNERS: dict[str, Callable[[], Any]] = {
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "RS256": lambda: rsa.generate_private_key(65537, 2048),
}


class Login:
    """Somebody's login service: an HTTPS server that has a key set."""

    def __init__(self, algorithm: str) -> None:
        self.algorithm = algorithm
        self.key = SIGNERS[algorithm]()
        self.asked = 0
        self.status = 200
        self.body: bytes | None = None
        self.headers: dict[str, str] = {}
        self.url = ""
        self.ca_file = ""

    def published(self, *, kid: str | None = KID, **more: Any) -> dict[str, Any]:
        public = jwt.get_algorithm_by_name(self.algorithm).to_jwk(self.key.public_key(), as_dict=True)
        public.pop("key_ops", None)
        return {**public, **({} if kid is None else {"kid": kid}), **more}

    async def keys(self, _request: web.Request) -> web.Response:
        self.asked += 1
        body = json.dumps({"keys": [self.published()]}).encode() if self.body is None else self.body
        return web.Response(status=self.status, body=body, headers=self.headers)

    def issuer(self, **more: Any) -> Issuer:
        given = {"issuer": ISSUER, "audience": AUDIENCE, "jwks_url": self.url, "algorithm": self.algorithm}
        return Issuer(**{**given, "ca_file": self.ca_file, "tenant_claim": "tenant", **more})

    def token(self, *, key: Any = None, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """A good token, but for what is said; claims that are None are left out."""
        now = time.time()
        good = {"iss": ISSUER, "aud": AUDIENCE, "iat": now, "exp": now + 300, "sub": "ci", "tenant": "acme"}
        said = {**good, "scope": "send read", **claims}
        chosen = {name: value for name, value in said.items() if value is not None}
        return jwt.encode(chosen, key or self.key, self.algorithm, {"kid": KID, **(header or {})})

    @property
    def pem(self) -> bytes:
        return bytes(
            self.key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )


async def serve(login: Login, folder: Path) -> web.AppRunner:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    app = web.Application()
    app.router.add_get("/keys", login.keys)
    app.router.add_get("/elsewhere", login.keys)
    runner = web.AppRunner(app)
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, listener, ssl_context=context).start()
    login.url, login.ca_file = f"https://localhost:{listener.getsockname()[1]}/keys", str(folder / "ca.pem")
    return runner


@pytest.fixture(params=list(SIGNERS))
async def login(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Login]:
    found = Login(request.param)
    runner = await serve(found, tmp_path)
    yield found
    await runner.cleanup()


@pytest.fixture
async def one(tmp_path: Path) -> AsyncIterator[Login]:
    """One of a single kind, where the kind makes no difference."""
    found = Login("ES256")
    runner = await serve(found, tmp_path)
    yield found
    await runner.cleanup()


def tokens(login: Login, **more: Any) -> Tokens:
    return Tokens({"corporate": login.issuer(**more)}, {"default", "acme"})


async def test_a_good_token_says_who_comes(login: Login) -> None:
    """Tenant and scopes are its claims'; the second time its keys are not even looked at."""
    known, token = tokens(login), login.token()
    who = await known.bearer(token)
    assert who == Principal("acme", "corporate: ci", frozenset({Scope.SEND, Scope.READ}))
    login.status = 500
    assert await known.bearer(token) is who
    assert login.asked == 1


@pytest.mark.parametrize(
    ("settings", "claims", "expected"),
    [
        ({}, {"scope": ["operate", "dance"]}, ("acme", {Scope.OPERATE})),
        ({}, {"scope": None}, ("acme", set())),
        ({}, {"scope": {"send": True}}, ("acme", set())),
        (
            {"scope_claim": "roles", "scopes": {"send": "push:send"}},
            {"roles": "push:send read"},
            ("acme", {Scope.SEND}),
        ),
        ({"tenant_claim": None, "tenant": "acme"}, {"tenant": "globex"}, ("acme", {Scope.SEND, Scope.READ})),
        ({}, {"tenant": "default"}, ("default", {Scope.SEND, Scope.READ})),
        ({}, {"tenant": "globex"}, None),
        ({}, {"tenant": None}, None),
        ({}, {"tenant": ["acme"]}, None),
        ({}, {"tenant": {"acme": 1}}, None),
    ],
)
async def test_claims_become_tenant_and_scopes(
    one: Login, settings: dict[str, Any], claims: dict[str, Any], expected: tuple[str, set[Scope]] | None
) -> None:
    """As the issuer is configured; a tenant that there is not is nobody's."""
    who = await tokens(one, **settings).bearer(one.token(**claims))
    assert (who and (who.tenant, set(who.scopes))) == expected


WRONG_CLAIMS: dict[str, dict[str, Any]] = {
    "expired": {"exp": time.time() - 60},
    "no expiry": {"exp": None},
    "an expiry that is none": {"exp": "soon"},
    "an endless expiry": {"exp": float("inf")},
    "an expiry that is no number": {"exp": float("nan")},
    "a list for expiry": {"exp": [2**40]},
    "issued in the future": {"iat": time.time() + 600},
    "no instant of issue": {"iat": None},
    "not yet good": {"nbf": time.time() + 600},
    "another audience": {"aud": "another"},
    "no audience": {"aud": None},
    "an empty audience": {"aud": []},
    "another issuer": {"iss": "https://evil.example/"},
    "the issuer without its slash": {"iss": ISSUER.rstrip("/")},
    "no issuer": {"iss": None},
    "a subject that is no text": {"sub": 7},
}


@pytest.mark.parametrize("case", WRONG_CLAIMS)
async def test_wrong_claims_are_refused(one: Login, case: str) -> None:
    try:
        forged = one.token(**WRONG_CLAIMS[case])
    except TypeError:  # our own library does not even write it
        forged = signed_by_hand(one, WRONG_CLAIMS[case])
    assert await tokens(one).bearer(forged) is None


async def test_clocks_may_differ_a_little(one: Login) -> None:
    """30 seconds, either way."""
    now = time.time()
    known = tokens(one)
    assert await known.bearer(one.token(exp=now - 20)) is not None
    assert await known.bearer(one.token(iat=now + 20)) is not None


def encoded(value: Any) -> str:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def parts(token: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    head, claims, signature = token.split(".")
    return json.loads(jwt.utils.base64url_decode(head)), json.loads(jwt.utils.base64url_decode(claims)), signature


def signed_by_hand(login: Login, claims: dict[str, Any]) -> str:
    head, good, _ = parts(login.token())
    text = f"{encoded(head)}.{encoded({**good, **claims})}"
    signature = jwt.get_algorithm_by_name(login.algorithm).sign(text.encode(), login.key)
    return f"{text}.{encoded(signature)}"


def _hmac(login: Login, secret: bytes, **header: Any) -> str:
    head, claims, _ = parts(login.token())
    text = f"{encoded({**head, 'alg': 'HS256', **header})}.{encoded(claims)}"
    return f"{text}.{encoded(hmac.digest(secret, text.encode(), hashlib.sha256))}"


def _with(login: Login, **header: Any) -> str:
    """A good signature over a header that says more."""
    head, claims, _ = parts(login.token())
    text = f"{encoded({**head, **header})}.{encoded(claims)}"
    return f"{text}.{encoded(jwt.get_algorithm_by_name(login.algorithm).sign(text.encode(), login.key))}"


def _changed(login: Login, **claims: Any) -> str:
    head, good, signature = parts(login.token())
    return f"{encoded(head)}.{encoded({**good, **claims})}.{signature}"


def _unsigned(login: Login, alg: str) -> str:
    head, claims, _ = parts(login.token())
    return f"{encoded({**head, 'alg': alg})}.{encoded(claims)}."


def _other(algorithm: str) -> str:
    return next(name for name in SIGNERS if name != algorithm)


FORGERIES: dict[str, Callable[[Login], str]] = {
    "alg none": lambda login: _unsigned(login, "none"),
    "alg None": lambda login: _unsigned(login, "None"),
    "alg empty": lambda login: _unsigned(login, ""),
    "no signature": lambda login: login.token().rpartition(".")[0] + ".",
    "HMAC with the public key as PEM": lambda login: _hmac(login, login.pem),
    "HMAC with the public key as PEM, without its end": lambda login: _hmac(login, login.pem.strip()),
    "HMAC with the published key": lambda login: _hmac(login, json.dumps(login.published()).encode()),
    "HMAC with nothing": lambda login: _hmac(login, b""),
    "HMAC under the issuer's own algorithm": lambda login: _hmac(login, login.pem, alg=login.algorithm),
    "another key": lambda login: login.token(key=SIGNERS[login.algorithm]()),
    "another algorithm": lambda login: jwt.encode(
        parts(login.token())[1], SIGNERS[_other(login.algorithm)](), _other(login.algorithm), {"kid": KID}
    ),
    "a changed claim": lambda login: _changed(login, tenant="default"),
    "a changed scope": lambda login: _changed(login, scope="operate"),
    "the algorithm in a header alone": lambda login: _with(login, alg=_other(login.algorithm)),
    "a critical extension": lambda login: _with(login, crit=["exp2"], exp2=1),
    "a critical payload that is detached": lambda login: _with(login, crit=["b64"], b64=False),
    "a key of its own": lambda login: jwt.encode(
        parts(login.token())[1], (own := SIGNERS[login.algorithm]()), login.algorithm,
        {"kid": "mine", "jwk": jwt.get_algorithm_by_name(login.algorithm).to_jwk(own.public_key(), as_dict=True)},
    ),
    "an address of keys of its own": lambda login: _with(login, kid="mine", jku="https://evil.example/keys"),
    "a certificate of its own": lambda login: _with(login, kid="mine", x5u="https://evil.example/c.pem"),
    "a kid that is a path": lambda login: _with(login, kid="../../../../dev/null"),
    "a kid that is a statement": lambda login: _with(login, kid="' OR 1=1 --"),
    "a kid that is an address": lambda login: _with(login, kid="https://evil.example/"),
    "a kid that is a number": lambda login: _with(login, kid=1),
    "a kid that is a list": lambda login: _with(login, kid=[KID]),
    "a kid that is nothing": lambda login: _with(login, kid=None),
    "a kid of a megabyte": lambda login: _with(login, kid="k" * 2**20),
    "oversize": lambda login: login.token(sub="x" * 8192),
    "deeply nested": lambda login: f"{encoded({'alg': login.algorithm, 'kid': KID})}.{encoded(b'[' * 6000)}.AA",
    "claims that are a list": lambda login: f"{encoded({'alg': login.algorithm, 'kid': KID})}.{encoded([1])}.AA",
    "a header that is a list": lambda login: f"{encoded([1])}.{encoded({})}.AA",
    "encrypted": lambda login: login.token() + ".AAAA.BBBB",
    "two dots": lambda _: "..",
    "no token": lambda _: "x",
    "nothing": lambda _: "",
    "not of base64": lambda login: "%%%." + login.token().partition(".")[2],
    "not ASCII": lambda login: login.token()[:-1] + "é",
}  # fmt: skip


@pytest.mark.parametrize("forgery", FORGERIES)
async def test_forgeries_are_refused(login: Login, forgery: str) -> None:
    """With whatever algorithm; and the keys are fetched from one address, once."""
    known, forged = tokens(login), FORGERIES[forgery](login)
    if forgery == "a kid that is nothing":
        login.body = json.dumps({"keys": [login.published(), login.published(kid="key-2")]}).encode()
    assert await known.bearer(login.token()) is not None
    assert await known.bearer(forged) is None
    assert login.asked == 1


class Clock:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def key_set(login: Login, clock: Clock) -> KeySet:
    return KeySet(login.url, login.algorithm, ssl.create_default_context(cafile=login.ca_file), clock)


async def test_unknown_keys_lead_to_one_fetch_a_minute(one: Login) -> None:
    """Whatever tokens name: else anybody could have us ask the login service all day."""
    clock = Clock()
    keys = key_set(one, clock)
    for number in range(50):
        assert await keys.key(f"unknown-{number}") is None
    assert one.asked == 1
    clock.now += GAP
    one.body = json.dumps({"keys": [one.published(kid="unknown-7")]}).encode()
    assert await keys.key("unknown-7") is not None
    assert one.asked == 2


async def test_keys_stay_good_while_the_service_is_down(one: Login) -> None:
    """For a day; then nobody can say any more whether they were withdrawn."""
    clock = Clock()
    keys = key_set(one, clock)
    assert await keys.key(KID) is not None
    one.status = 503
    for _ in range(3):
        clock.now += STALE / 4
        assert await keys.key(KID) is not None
        await keys.close()
    clock.now += STALE / 2
    assert await keys.key(KID) is None


async def test_a_withdrawn_key_takes_its_tokens_with_it(one: Login) -> None:
    """What was remembered as good is checked again once the keys have changed."""
    known, token = tokens(one), one.token()
    assert await known.bearer(token) is not None
    (_, _, keys) = known._issuers[ISSUER]
    one.key = SIGNERS[one.algorithm]()
    keys._tried = float("-inf")
    keys.refresh()
    assert await keys.key("unknown") is None
    assert await known.bearer(token) is None
    assert await known.bearer(one.token()) is not None


@pytest.mark.parametrize(
    "answer",
    ["redirect", "long", "not JSON", "no keys", "other kind", "encryption", "weak", "private", "compressed"],
)
async def test_a_key_set_is_not_believed_whatever_it_is(one: Login, answer: str) -> None:
    """Bounded, from its address alone, of its kind."""
    good = {"keys": [one.published()]}
    match answer:
        case "redirect":
            one.status, one.headers = 302, {"Location": one.url.replace("/keys", "/elsewhere")}
        case "long":
            one.body = json.dumps({**good, "padding": "x" * ANSWER}).encode()
        case "not JSON":
            one.body = b"<html>"
        case "no keys":
            one.body = b'{"keys": [null, 1, {"kty": "EC"}]}'
        case "other kind":
            one.body = json.dumps({"keys": [Login("RS256").published()]}).encode()
        case "encryption":
            one.body = json.dumps({"keys": [one.published(use="enc")]}).encode()
        case "weak":
            one.algorithm = "RS256"
            one.key = rsa.generate_private_key(65537, 1024)
        case "private":
            one.body = json.dumps({"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": KID, "alg": "HS256"}]}).encode()
        case _:
            one.headers = {"Content-Encoding": "gzip"}
            one.body = b"\x1f\x8b\x08\x00"
    assert await key_set(one, Clock()).key(KID) is None
    assert one.asked == 1
