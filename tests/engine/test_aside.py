"""Work beside the driver: in order, and its errors are not lost."""

import threading

import pytest

from pipeline.engine.aside import aside


def test_calls_go_on_beside_and_in_order() -> None:
    found: list[tuple[int, bool]] = []
    first = threading.Event()

    def work(number: int) -> None:
        assert first.wait(60)
        found.append((number, threading.current_thread() is threading.main_thread()))

    with aside(work) as calls:
        for number in range(5):
            calls(number)
        assert found == []
        calls.check()
        first.set()
    assert found == [(number, False) for number in range(5)]


def test_what_a_call_raises_is_raised_at_the_next_look_and_at_the_end() -> None:
    done = threading.Event()

    def work(number: int) -> None:
        try:
            if number == 1:
                raise ValueError("one")
        finally:
            done.set()

    with pytest.raises(ValueError, match="one"), aside(work) as calls:
        calls(1)
        assert done.wait(60)
        for _ in range(1000):
            calls.check()
    with pytest.raises(ValueError, match="one"), aside(work) as calls:
        calls(1)
        calls(2)


def test_what_was_asked_for_is_done_where_the_block_raises() -> None:
    hold, done = threading.Event(), list[int]()

    def work(number: int) -> None:
        assert hold.wait(60)
        done.append(number)

    with pytest.raises(KeyError), aside(work) as calls:
        for number in range(3):
            calls(number)
        hold.set()
        raise KeyError
    assert done == [0, 1, 2]
