"""The line of progress: its time left is that of the work, not of the number of images."""

import pytest

from pipeline.engine.progress import Line


class Screen:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def show(self, text: str) -> None:
        self.lines.append(text)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_time_left_counts_work_and_not_images() -> None:
    """Half the images are done, and three quarters of the work are still to do."""
    screen, clock = Screen(), Clock()
    line = Line("images", 20, screen, work=40.0, clock=clock)
    clock.now = 500.0  # nobody was there yet: not counted
    line.begin()
    assert line.seconds_left() is None
    clock.now += 100.0
    line.advance(10, work=10.0)
    assert line.seconds_left() == pytest.approx(300.0)
    assert screen.lines == ["images: 10 of 20, 0.1/s, 5 min left"]
    clock.now += 300.0
    line.advance(10, work=30.0)
    assert screen.lines[-1] == "images: 20 of 20, 0.05/s, in 7 min"


def test_an_even_work_is_told_right_all_the_way() -> None:
    clock = Clock()
    line = Line("images", 100, Screen(), clock=clock)
    line.begin()
    for done in range(1, 100):
        clock.now += 2.0
        line.advance()
        assert line.seconds_left() == pytest.approx(2.0 * (100 - done))


def test_what_is_there_when_the_clock_begins_tells_nothing_of_the_rate() -> None:
    screen, clock = Screen(), Clock()
    line = Line("images", 100, screen, clock=clock)
    line.advance(40)
    assert line.seconds_left() is None
    clock.now += 10.0
    line.advance(20)
    assert line.seconds_left() == pytest.approx(20.0)
    assert screen.lines == ["images: 40 of 100", "images: 60 of 100, 2/s, 20 s left"]


def test_a_note_stays() -> None:
    screen = Screen()
    line = Line("epochs", 2, screen)
    line.advance(note="loss 0.5")
    line.advance()
    assert [text.rsplit(", ", 1)[1] for text in screen.lines] == ["loss 0.5", "loss 0.5"]
