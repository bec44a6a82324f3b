import io

import pytest

from pipeline.training.console import Terminal
from pipeline.training.progress import duration


class _Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_written_over_on_a_terminal_and_what_was_said_stays() -> None:
    screen = _Screen()
    terminal = Terminal(screen)
    terminal.show("10 images, long line")
    terminal.show("20 images")
    terminal.say("done")
    terminal.end()
    assert screen.getvalue() == "\r10 images, long line\r20 images           \ndone\n"


def test_progress_is_a_line_now_and_then_where_nothing_can_be_written_over_and_the_last_one_always() -> None:
    stream, now = io.StringIO(), [100.0]
    terminal = Terminal(stream, lambda: now[0])
    for number in range(40):
        terminal.show(f"{number} images")
        now[0] += 1
    terminal.say("something happened")
    terminal.end()
    assert stream.getvalue().splitlines() == ["0 images", "15 images", "30 images", "something happened", "39 images"]
    assert "\r" not in stream.getvalue()


def test_a_line_that_is_longer_than_the_terminal_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    screen = _Screen()
    Terminal(screen).show("a" * 50)
    assert screen.getvalue() == "\r" + "a" * 19


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (3000, "50 min"), (12_000, "3 h 20 min"), (187_200, "2 d 4 h")],
)
def test_spans_of_time_read_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
