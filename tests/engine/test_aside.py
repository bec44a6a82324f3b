"""Work beside the driver: in order, and its errors are not lost."""

import threading
from collections.abc import Callable

import pytest

from pipeline.engine.aside import Aside, aside


def within(work: Callable[[int], None], block: Callable[[Aside[int]], None]) -> None:
    with aside(work) as calls:
        block(calls)


def test_calls_go_on_beside_and_in_order() -> None:
    found: list[tuple[int, bool]] = []
    first = threading.Event()

    def work(number: int) -> None:
        assert first.wait(60)
        found.append((number, threading.current_thread() is threading.main_thread()))

    def block(calls: Aside[int]) -> None:
        for number in range(5):
            calls(number)
        assert found == []
        calls.check()
        first.set()

    within(work, block)
    assert found == [(number, False) for number in range(5)]


def test_what_a_call_raises_is_raised_at_a_later_look_or_at_the_end() -> None:
    looked: list[int] = []

    def work(number: int) -> None:
        if number == 1:
            raise ValueError("one")

    def look(calls: Aside[int]) -> None:
        calls(1)
        while True:
            calls.check()
            looked.append(1)

    def leave(calls: Aside[int]) -> None:
        calls(1)
        calls(2)

    for block in (look, leave):
        with pytest.raises(ValueError, match="one"):
            within(work, block)


def test_what_was_asked_for_is_done_where_the_block_raises() -> None:
    hold, done = threading.Event(), list[int]()

    def work(number: int) -> None:
        assert hold.wait(60)
        done.append(number)

    def block(calls: Aside[int]) -> None:
        for number in range(3):
            calls(number)
        hold.set()
        raise KeyError

    with pytest.raises(KeyError):
        within(work, block)
    assert done == [0, 1, 2]
