"""The ledger: what it calls missing, extra and duplicate."""

from __future__ import annotations

from typing import Any

import pytest

from bench.ledger import Balance, Ledger


def balance(*receipts: dict[str, Any], taken: int = 0) -> Balance:
    """Of one accepted recipient, with these receipts, that a service took so often."""
    ledger = Ledger()
    ledger.accepted({"r1": None})
    for receipt in receipts:
        ledger.receipt({"recipient": "r1", "id": "d1", **receipt})
    ledger.taken({"d1": taken} if taken else {})
    return ledger.balance()


def test_what_was_accepted_and_taken_once_is_clean() -> None:
    assert balance({"state": "accepted"}, taken=1).clean


def test_no_receipt_and_an_acceptance_that_no_service_knows_of_are_missing() -> None:
    assert balance().missing == 1
    assert balance({"state": "accepted"}).missing == 1


def test_second_receipts_and_what_a_receipt_denies_are_extra() -> None:
    assert balance({"state": "accepted"}, {"state": "accepted"}, taken=1).extra == 1
    assert balance({"state": "invalid_token"}, taken=1).extra == 1


@pytest.mark.parametrize(("unanswered", "taken", "extra"), [(1, 1, 0), (1, 2, 1), (2, 2, 0)])
def test_a_refused_delivery_may_have_been_taken_in_tries_that_got_no_answer(
    unanswered: int, taken: int, extra: int
) -> None:
    """Its receipt says how many those were; its target died between them and the last one."""
    assert balance({"state": "invalid_token", "unanswered": unanswered}, taken=taken).extra == extra
