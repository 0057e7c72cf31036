"""One request on a pool of its own, awaited."""

from __future__ import annotations

import ssl

import pytest

from gateway.http2.single import REQUEST_TIMEOUT, TRIES, RequestFailed, post
from providers.base import Exchange
from tests.gateway.virtual import Answer, Fault, Service, virtual_loop

LOOPS = ("virtual",)

ASKED = Exchange("https://oauth.example/token?a=b", ((b"content-type", b"text/plain"),), b"secret")


def served(service: Service) -> Service:
    return virtual_loop().serve("oauth.example", service)


async def asked() -> tuple[int, bytes]:
    answer = await post(ASKED, ssl.create_default_context())
    return answer.status, answer.body


async def test_the_answer_comes_back_and_its_connection_is_closed() -> None:
    service = served(Service(lambda path: Answer(400, b"no")))
    assert await asked() == (400, b"no")
    assert service.paths == {"/token?a=b": 1}
    assert service.bodies == [b"secret"]
    assert not service.open


async def test_a_request_that_was_not_processed_goes_again() -> None:
    tries = iter([Fault("goaway"), Fault("refuse"), Answer()])
    service = served(Service(lambda path: next(tries)))
    assert await asked() == (200, b"")
    assert service.taken == 1


async def test_but_not_for_ever() -> None:
    asked_for: list[str] = []
    served(Service(lambda path: asked_for.append(path) or Fault("refuse")))  # type: ignore[func-returns-value]
    with pytest.raises(RequestFailed, match="processes nothing"):
        await asked()
    assert len(asked_for) == TRIES


@pytest.mark.parametrize(("fault", "words"), [("cut", "connection lost"), ("reset", "reset INTERNAL_ERROR")])
async def test_a_request_whose_fate_is_unknown_does_not(fault: str, words: str) -> None:
    """An exchange is made anew, with a new assertion, rather than repeated."""
    service = served(Service(lambda path: Fault(fault)))
    with pytest.raises(RequestFailed, match=words):
        await asked()
    assert service.taken == 1
    assert not service.open


async def test_nobody_waits_for_ever() -> None:
    service = served(Service(lambda path: Fault("hang")))
    start = virtual_loop().time()
    with pytest.raises(RequestFailed, match="no answer in time"):
        await asked()
    assert virtual_loop().time() - start == pytest.approx(REQUEST_TIMEOUT, abs=0.1)
    assert not service.open


async def test_a_host_that_is_silent_is_given_up() -> None:
    service = served(Service())
    service.silent = True
    with pytest.raises(RequestFailed):
        await asked()


async def test_the_failure_says_nothing_of_the_request() -> None:
    served(Service(lambda path: Fault("cut")))
    with pytest.raises(RequestFailed) as failed:
        await asked()
    assert "secret" not in str(failed.value)
    assert "token" not in str(failed.value)
