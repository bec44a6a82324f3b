"""Who counts as hung, in virtual time."""

from dataclasses import dataclass, field

from pipeline.engine.pulse import Pulse, Watch

PATIENCE = 100.0


@dataclass
class Workers:
    """Workers whose counts are asked for and told at the next look, as by somebody who waits for them."""

    now: float = 0.0
    beats: dict[int, int] = field(default_factory=dict)
    stopped: set[int] = field(default_factory=set)  # that answer nothing
    hung: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.watch = Watch(PATIENCE, lambda: self.now)
        self._answers: dict[int, int] = {}

    def look(self, after: float) -> None:
        self.now += after
        assert self.watch.is_due
        for worker, beats in self._answers.items():
            self.watch.told(worker, beats)
        asked, hung = self.watch.look(set(self.beats) - set(self.hung))
        self._answers = {worker: self.beats[worker] for worker in asked if worker not in self.stopped}
        self.hung |= dict.fromkeys(hung, self.now)


def test_one_that_is_stopped_or_stands_still_is_found_in_time_and_one_that_works_is_not() -> None:
    workers = Workers(beats={0: 5, 1: 5, 2: 5}, stopped={1})
    for _ in range(100):
        workers.beats[0] += 1
        workers.look(workers.watch.interval)
    assert set(workers.hung) == {1, 2}
    assert all(PATIENCE < found <= 4 / 3 * PATIENCE for found in workers.hung.values())


def test_slow_steps_are_progress_as_long_as_they_are_within_the_patience() -> None:
    workers = Workers(beats={0: 0})
    for step in range(200):
        workers.beats[0] = step // 8
        workers.look(workers.watch.interval)
    assert workers.hung == {}


def test_who_was_held_up_itself_blames_nobody_for_it() -> None:
    """As a laptop that slept, or a driver that was stopped."""
    workers = Workers(beats={0: 0})
    for _ in range(5):
        workers.look(1000 * PATIENCE)
        workers.beats[0] += 1
    assert workers.hung == {}


def test_a_worker_without_work_hangs_at_nothing() -> None:
    now = 0
    watch = Watch(PATIENCE, lambda: now)
    for now in range(0, 1000, 10):
        assert watch.look([0] if now % 50 == 0 else []) == ([], [])


def test_a_pulse_beats_as_a_hook_does() -> None:
    pulse = Pulse()
    pulse.beat()
    pulse.beat("a module", "its input", "its output")
    assert pulse.beats == 2
