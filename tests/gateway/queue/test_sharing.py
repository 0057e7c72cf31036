"""How a holder's room is divided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import count

from gateway.model import Lane, Route
from gateway.queue.base import Room, load
from gateway.queue.sharing import Candidate, Shares

SHOP, BANK = Route("shop", "apns"), Route("bank", "apns")


def endless(deliveries: int, start: int = 1) -> Iterator[Candidate]:
    return (Candidate(sequence, deliveries) for sequence in count(start))


def chosen(room: Room, limit: int = 10_000, **sizes: int) -> Counter[str]:
    """Deliveries by app, where each app has endless batches of one size on one route."""
    waiting = {Route(app, "apns"): endless(size, number * 10**6) for number, (app, size) in enumerate(sizes.items(), 1)}
    taken: Counter[str] = Counter()
    for _, route in Shares(room, Lane.PROMOTIONAL).choose(waiting, limit):
        taken[route.app] += load(sizes[route.app])
    return taken


def room(capacity: int, weights: dict[str, float] | None = None, **held: int) -> Room:
    by_route = {(Lane.PROMOTIONAL, Route(app, "apns")): load for app, load in held.items()}
    return Room(10_000, 10**9, (), by_route, dict.fromkeys(Lane, capacity), weights or {})


def test_one_that_is_alone_gets_half() -> None:
    """The rest is for who comes next."""
    assert 50_000 <= chosen(room(100_000), shop=100)["shop"] <= 50_000 + load(100)


def test_all_get_the_same_load_whatever_their_batches() -> None:
    """Single deliveries and whole batches count by what they take."""
    taken = chosen(room(120_000), shop=1, bank=1000, post=10)
    assert all(abs(taken[app] - 30_000) <= load(1000) for app in ("shop", "bank", "post"))


def test_weights() -> None:
    """Twice the weight, twice the share; what remains free is the part of a newcomer of weight 1."""
    taken = chosen(room(100_000, {"shop": 2.0}), shop=10, bank=10)
    assert abs(taken["shop"] - 50_000) <= 2 * load(10)
    assert abs(taken["bank"] - 25_000) <= 2 * load(10)


def test_who_holds_less_goes_first() -> None:
    """Until the others are caught up with."""
    taken = chosen(room(10**9, shop=5_000), limit=200, shop=1, bank=1)
    assert taken["bank"] - taken["shop"] in range(5_000 - load(1), 5_000 + 2 * load(1))


def test_a_newcomer_finds_room_behind_any_crowd() -> None:
    """However many apps have taken all they may."""
    crowd = dict.fromkeys((f"app-{number}" for number in range(50)), 10)
    held = chosen(room(100_000), **crowd)
    assert sum(held.values()) <= 100_000
    assert chosen(room(100_000, None, **held), shop=1)["shop"] > load(1)


def test_the_routes_of_an_app_share_its_part() -> None:
    """Forty origins of one app get what one route of another does."""
    waiting = {Route("shop", "webpush", f"https://{number}.example"): endless(9, number * 1000) for number in range(40)}
    waiting[BANK] = endless(9, 10**6)
    routes = Counter(route for _, route in Shares(room(10**9), Lane.PROMOTIONAL).choose(waiting, 80))
    assert routes.pop(BANK) == 40
    assert set(routes.values()) == {1}


def test_a_campaign_takes_no_more_than_a_routes_part() -> None:
    """Transactional work is not bounded so."""
    narrow = room(10**9)._replace(per_route=3 * load(1))
    for lane, expected in ((Lane.PROMOTIONAL, 3), (Lane.TRANSACTIONAL, 20)):
        assert len(Shares(narrow, lane).choose({SHOP: endless(1)}, 20)) == expected
