import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.tracking import spool, spool_reader
from pipeline.tracking.spool import SpoolFolder, SpoolWriter
from pipeline.tracking.spool_reader import SpoolReader, sweep


@pytest.fixture
def folder(tmp_path: Path) -> SpoolFolder:
    found = SpoolFolder.of(str(tmp_path), "sqlite:////x.db", "digits")
    found.create()
    return found


def opened(writer: SpoolWriter, key: str = "k") -> SpoolWriter:
    writer.append({"op": "open", "key": key, "name": key, "tags": {}, "ts": 1})
    return writer


def metric(value: float) -> dict[str, object]:
    return {"op": "metrics", "step": 0, "values": {"m": value}, "ts": 2}


def values(reader: SpoolReader) -> list[float]:
    return [op["values"]["m"] for op, _ in reader.read() if op["op"] == "metrics"]


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """A limit of the kernel: writes beyond it fail as those on a full disk do, the last one half-way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_spool_says_its_format_and_one_that_does_not_is_of_the_first(folder: SpoolFolder, tmp_path: Path) -> None:
    opened(SpoolWriter(folder))
    assert spool_reader.written_format(folder.files()[0]) == spool.FORMAT == 1
    golden = Path(__file__).parents[1] / "data" / "golden" / "spool" / "pending"
    (old,) = golden.glob("*.jsonl")
    shutil.copy(old, tmp_path)
    reader = SpoolReader(tmp_path / old.name)
    assert "format" not in (reader.head or {})
    assert [operation["op"] for operation, _ in reader.read()] == ["open", "metrics", "end"]


def test_operations_are_read_in_the_order_of_writing(folder: SpoolFolder) -> None:
    writer = opened(SpoolWriter(folder))
    for number in range(20):
        writer.append(metric(number))
    reader = SpoolReader(folder.files()[0])
    assert reader.head is not None
    assert reader.head["key"] == "k"
    assert values(reader) == list(range(20))


def test_reading_goes_on_behind_what_was_marked_as_sent(folder: SpoolFolder) -> None:
    writer = opened(SpoolWriter(folder))
    for number in range(4):
        writer.append(metric(number))
    reader = SpoolReader(folder.files()[0])
    reader.mark("run", reader.read()[2][1])
    assert values(SpoolReader(folder.files()[0])) == [2, 3]
    assert SpoolReader(folder.files()[0]).run_id == "run"


@pytest.mark.parametrize("lost", range(1, 12))
def test_a_torn_last_line_is_left_out(folder: SpoolFolder, lost: int) -> None:
    writer = opened(SpoolWriter(folder))
    writer.append(metric(1))
    writer.append(metric(2))
    path = folder.files()[0]
    os.truncate(path, path.stat().st_size - lost)
    assert values(SpoolReader(path)) == [1]


def test_a_damaged_line_is_skipped_and_named(folder: SpoolFolder, caplog: pytest.LogCaptureFixture) -> None:
    writer = opened(SpoolWriter(folder))
    writer.append(metric(1))
    writer.append(metric(2))
    path = folder.files()[0]
    lines = path.read_bytes().splitlines(keepends=True)
    no_values = b'{"op": "metrics", "ts": 1}\n'
    path.write_bytes(lines[0] + lines[1].replace(b"{", b"\xff", 1) + b"[]\n" + no_values + lines[2])
    assert values(SpoolReader(path)) == [2]
    assert "damaged line" in caplog.text


def test_an_operation_larger_than_a_read_arrives_whole(folder: SpoolFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_reader, "READ_BYTES", 128)
    writer = opened(SpoolWriter(folder))
    writer.append({"op": "text", "name": "x" * 5000, "ts": 2}, b"text")
    writer.append(metric(3))
    reader = SpoolReader(folder.files()[0])
    seen = []
    while entries := reader.read():
        seen += [op["op"] for op, _ in entries]
        reader.mark("run", entries[-1][1])
    assert seen == ["open", "text", "metrics"]


def test_a_spool_is_ownerless_only_when_its_process_is_gone(folder: SpoolFolder) -> None:
    code = """if True:
        import sys, time
        from pathlib import Path
        from pipeline.tracking.spool import *
        writer = SpoolWriter(SpoolFolder(Path(sys.argv[1])))
        writer.append({"op": "open", "key": "k", "name": "k", "tags": {}, "ts": 1})
        print("written", flush=True)
        time.sleep(60)
    """
    process = subprocess.Popen([sys.executable, "-c", code, str(folder.path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"written\n"
    reader = SpoolReader(folder.files()[0])
    assert not reader.is_ownerless
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert reader.is_ownerless
    process.stdout.close()


def test_the_end_of_a_run_is_seen(folder: SpoolFolder) -> None:
    writer = opened(SpoolWriter(folder))
    reader = SpoolReader(folder.files()[0])
    assert not reader.is_ended
    writer.append({"op": "end", "status": "FINISHED", "ts": 3})
    assert reader.is_ended


def test_a_full_disk_is_said_once_and_nothing_is_lost(
    folder: SpoolFolder, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "RETRY_SECONDS", 0.0)
    writer = opened(SpoolWriter(folder))
    with files_no_larger_than(1000), caplog.at_level(logging.WARNING):
        for number in range(100):
            writer.append(metric(number))
        assert writer.is_behind
        assert folder.files()[0].stat().st_size <= 1000
        assert folder.files()[0].read_bytes().endswith(b"\n")  # no half line is left
    assert sum("cannot be written" in record.getMessage() for record in caplog.records) == 1
    writer.append(metric(100))
    assert not writer.is_behind
    assert values(SpoolReader(folder.files()[0])) == list(range(101))


def test_memory_is_bounded_while_the_disk_is_full(
    folder: SpoolFolder, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "MAX_WAITING", 10)
    monkeypatch.setattr(spool, "RETRY_SECONDS", 0.0)
    writer = SpoolWriter(folder)
    with files_no_larger_than(0):
        opened(writer)
        for number in range(50):
            writer.append(metric(number))
        writer.append({"op": "end", "status": "FINISHED", "ts": 3})  # small, and needed
    assert writer.dropped == 41
    writer.close()
    reader = SpoolReader(folder.files()[0])
    assert values(reader) == list(range(9))
    assert reader.is_ended
    assert "41 reported operations" in caplog.text


def test_a_disk_that_stays_full_is_not_tried_at_every_call(
    folder: SpoolFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = opened(SpoolWriter(folder))
    tries = []
    real = os.write
    monkeypatch.setattr(os, "write", lambda *args: tries.append(1) or real(*args))
    with files_no_larger_than(0):
        start = time.monotonic()
        for number in range(5000):
            writer.append(metric(number))
        assert len(tries) <= 2 + (time.monotonic() - start) / spool.RETRY_SECONDS


def test_attachments_are_kept_when_the_original_goes(folder: SpoolFolder, tmp_path: Path) -> None:
    original = tmp_path / "a.txt"
    original.write_text("content")
    writer = opened(SpoolWriter(folder))
    writer.append({"op": "file", "name": "a.txt", "ts": 2}, original)
    writer.append({"op": "text", "name": "b.txt", "ts": 2}, b"bytes")
    original.unlink()
    reader = SpoolReader(folder.files()[0])
    found = [reader.attachment(op).read_text() for op, _ in reader.read()[1:]]
    assert found == ["content", "bytes"]


def test_a_sent_spool_leaves_no_files_and_litter_is_swept(folder: SpoolFolder) -> None:
    writer = opened(SpoolWriter(folder))
    writer.append({"op": "text", "name": "b.txt", "ts": 2}, b"bytes")
    other = opened(SpoolWriter(folder), "other")
    other.append({"op": "text", "name": "b.txt", "ts": 2}, b"bytes")
    reader = SpoolReader(writer.path)
    reader.mark("run", 10)
    reader.discard()
    assert {path.name.partition(".")[0] for path in folder.pending.iterdir()} == {other.stem}
    other.path.unlink()
    sweep(folder)
    assert not list(folder.pending.iterdir())
