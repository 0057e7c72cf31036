"""What follows from a message is kept by what the message says, and nothing else."""

from __future__ import annotations

from typing import Any

from providers import memo
from providers.base import Message


class Asked:
    """Counts how often something is worked out."""

    def __init__(self) -> None:
        self.times = 0
        self.of = memo.by_message(self._work)

    def _work(self, message: Message, *more: object) -> tuple[Any, ...]:
        self.times += 1
        return (message.title, message.apns, *more)


def test_the_same_message_of_another_job_is_known() -> None:
    asked = Asked()
    assert asked.of(Message(title="Your code"), "shop") == asked.of(Message(title="Your code"), "shop")
    assert asked.times == 1


def test_other_arguments_are_another_question() -> None:
    asked = Asked()
    assert asked.of(Message(title="Your code"), "shop") != asked.of(Message(title="Your code"), "bank")
    assert asked.times == 2


def test_what_python_calls_equal_is_told_apart() -> None:
    """`true` and `1` are two payloads, and so is another order of the keys."""
    asked = Asked()
    blocks: list[dict[str, Any]] = [{"a": 1, "b": 2}, {"a": True, "b": 2}, {"a": 1.0, "b": 2}, {"b": 2, "a": 1}]
    made = [asked.of(Message(apns=block))[1] for block in blocks]
    assert [repr(block) for block in made] == [repr(block) for block in blocks]
    assert asked.times == len(blocks)


def test_the_oldest_is_forgotten() -> None:
    asked = Asked()
    for number in range(memo.KEPT + 1):
        asked.of(Message(title=str(number)))
    asked.of(Message(title=str(memo.KEPT)))
    assert asked.times == memo.KEPT + 1
    asked.of(Message(title="0"))
    assert asked.times == memo.KEPT + 2


def test_large_ones_are_not_kept() -> None:
    asked = Asked()
    for _ in range(2):
        asked.of(Message(title="x" * memo.LARGEST))
    assert asked.times == 2


def test_what_cannot_be_encoded_is_worked_out_all_the_same() -> None:
    asked = Asked()
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"": deep}
    for block in (deep, {"badge": 2**64}):
        assert asked.of(Message(apns=block))[1] is block
    while deep:
        deep = deep[""]
