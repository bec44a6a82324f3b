"""Files changed at random: what is read from them is what was written, or it is refused in one sentence.

Each change is a function of its target and number; a failure tells both, so it can be made again.
"""

import signal
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.errors import SigmasweepError
from tests.chaos import targets
from tests.chaos.mutator import Mutator

FEW = 30  # of each in `make test`
MANY = {
    targets.Settings: 3000, targets.Chunks: 1500, targets.Features: 500, targets.Datasets: 1200,
    targets.ParquetFiles: 800, targets.States: 700, targets.Snapshots: 500, targets.Folders: 300,
    targets.NetworkPickles: 700, targets.CifarPickles: 800,
}  # fmt: skip
HANG_S = 20  # longer than any of them takes on a busy machine


def test_ten_thousand_are_made_in_all() -> None:
    assert sum(MANY.values()) == 10_000


# The alarm is needed here, so the test's own limit works by a thread.
@pytest.mark.timeout(300, method="thread")
@pytest.mark.parametrize("kind", MANY, ids=lambda kind: kind.__name__)
def test_a_changed_file_is_read_right_or_refused(kind: type[targets.Target], tmp_path: Path) -> None:
    assert_holds(kind, tmp_path, FEW)


@pytest.mark.chaos
@pytest.mark.timeout(1200, method="thread")
@pytest.mark.parametrize("kind", MANY, ids=lambda kind: kind.__name__)
def test_thousands_of_changed_files_are_read_right_or_refused(
    kind: type[targets.Target], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = assert_holds(kind, tmp_path, MANY[kind])
    with capsys.disabled():
        print(f"\n{kind.__name__}: {', '.join(f'{count} {what}' for what, count in sorted(outcomes.items()))}")


def assert_holds(kind: type[targets.Target], folder: Path, count: int) -> Counter[str]:
    target = kind(folder)  # type: ignore[call-arg]
    outcomes: Counter[str] = Counter()
    failures = []
    for number in range(count):
        try:
            with time_limit(HANG_S):
                outcomes[target.check(Mutator(f"{kind.__name__} {number}"))] += 1
        except SigmasweepError as error:
            outcomes[targets.refused(error)] += 1
        except Exception:
            failures.append(f"{kind.__name__} {number}: {traceback.format_exc(limit=-6)}")
    assert not failures, f"{len(failures)} of {count}:\n" + "\n".join(failures[:5])
    return outcomes


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    def stop(_signal: int, _frame: object) -> None:
        raise TimeoutError(f"it hangs: {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
