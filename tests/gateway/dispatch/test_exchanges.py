"""The requests that credentials ask for."""

from __future__ import annotations

import asyncio

import pytest

from gateway.credentials.store import Signing
from gateway.dispatch.exchanges import REFUSED_RETRY, RETRY_CEILING, Exchanges
from gateway.observe.health import Readiness
from providers.base import Exchange, Outcome, Verdict
from tests.gateway.dispatch.scripted import ScriptedCredential
from tests.gateway.virtual import EPOCH, Answer, Fault, Service, virtual_loop

LOOPS = ("virtual",)

ASKED = Exchange("https://oauth.example/token?v=1", ((b"content-type", b"text/plain"),), b"assertion")
GRANTED = Outcome(verdict=Verdict.ACCEPTED)
LATER = Outcome(verdict=Verdict.UNAVAILABLE, reason="busy")
REFUSED = Outcome(verdict=Verdict.CREDENTIAL, reason="invalid_grant")


class Desk:
    def __init__(self, exchange: Exchange = ASKED) -> None:
        self.readiness = Readiness()
        self.woken = 0
        self.credential = ScriptedCredential()
        self.credential.wanted = exchange
        signing = Signing("shop/fcm", self.credential)
        self.exchanges = Exchanges(lambda: [signing], self.readiness, self._wake)

    def _wake(self) -> None:
        self.woken += 1

    @property
    def parts(self) -> dict[str, tuple[bool, str]]:
        return self.readiness._parts

    async def run(self, seconds: float) -> None:
        """The dispatcher's clock."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end:
            self.exchanges.tick(loop.time(), EPOCH + loop.time())
            await asyncio.sleep(0.1)


async def test_an_exchange_is_made_once_and_its_success_wakes_the_senders() -> None:
    service = virtual_loop().serve("oauth.example", Service(lambda path: Answer(body=b"token", delay=1.0)))
    desk = Desk()
    desk.credential.grants = [GRANTED]
    await desk.run(5.0)
    assert service.paths == {"/token?v=1": 1}
    assert service.bodies == [b"assertion"]
    assert desk.woken == 1
    assert desk.exchanges.hold("shop/fcm", 0.0) is None
    assert not service.open, "its connection is closed"


async def test_failures_back_off_and_show_in_readiness_until_it_works() -> None:
    service = virtual_loop().serve("oauth.example", Service())
    desk = Desk()
    desk.credential.grants = [LATER, LATER, LATER, GRANTED]
    await desk.run(3.0)
    assert service.taken == 2
    now = asyncio.get_running_loop().time()
    hold = desk.exchanges.hold("shop/fcm", now)
    assert hold is not None
    assert 0 < hold <= 2.0
    assert desk.parts == {"credential shop/fcm": (False, "no access token (busy); it will be tried again")}
    await desk.run(60.0)
    assert service.taken == 4
    assert desk.parts == {}
    assert desk.woken == 1


async def test_a_refusal_is_for_an_operator() -> None:
    service = virtual_loop().serve("oauth.example", Service())
    desk = Desk()
    desk.credential.grants = [REFUSED] * 10
    await desk.run(2.5 * REFUSED_RETRY)
    assert service.taken == 3
    assert "check the service account" in desk.parts["credential shop/fcm"][1]


async def test_a_wait_that_was_asked_for_is_kept() -> None:
    service = virtual_loop().serve("oauth.example", Service())
    desk = Desk()
    desk.credential.grants = [Outcome(verdict=Verdict.UNAVAILABLE, retry_after=300.0), GRANTED]
    await desk.run(299.0)
    assert service.taken == 1
    await desk.run(5.0)
    assert desk.woken == 1


@pytest.mark.parametrize("fault", ["refuse", "hang", "cut", "goaway"])
async def test_without_an_answer_it_is_tried_again(fault: str) -> None:
    service = virtual_loop().serve("oauth.example", Service(lambda path: Fault(fault)))
    desk = Desk()
    await desk.run(60.0)
    assert desk.exchanges.hold("shop/fcm", 0.0) is not None
    service.behave = lambda path: Answer()
    desk.credential.grants = [GRANTED]
    await desk.run(RETRY_CEILING + 20)
    assert desk.woken == 1


@pytest.mark.parametrize("url", ["http://oauth.example/token", "https://oauth.example:x/", "https://nobody.example/"])
async def test_an_address_that_cannot_be_used_is_asked_now_and_then(url: str) -> None:
    """Neither ten times a second, nor never again, nor with an exception that nobody sees."""
    desk = Desk(ASKED._replace(url=url))
    tried: list[float] = []
    desk.credential.exchange = lambda now: tried.append(now) or desk.credential.wanted  # type: ignore[method-assign,func-returns-value]
    await desk.run(150.0)
    assert 2 <= len(tried) <= 20
    assert "credential shop/fcm" in desk.parts


async def test_closing_ends_what_is_under_way() -> None:
    service = virtual_loop().serve("oauth.example", Service(lambda path: Fault("hang")))
    desk = Desk()
    await desk.run(1.0)
    assert service.taken == 1
    await desk.exchanges.close()
    await asyncio.sleep(0.1)
    assert not service.open
    assert desk.woken == 0
