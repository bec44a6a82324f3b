"""Does what the pages tell a reader to do, in a fresh clone, command by command:

    python -m tests.readme [--venv .venv] [--skip COMMAND] [--keep FOLDER [--begin LINE]] [PAGE ...]

Pages say it in their own form. A fence ```sh holds commands, run line by line in the clone's root. A fence of another
language whose first line is a comment with nothing but a path (`# my-images.yaml`) is that file, and is written; a
```diff is applied. What is not to be run has a comment before its fence that readers do not see:

    <!-- not run: needs a GPU -->
    <!-- background: http://127.0.0.1:5000 -->      a server: runs until that address answers, and is stopped

With `--venv` an environment that is there is used; without, the first command that needs one makes it, as for anybody.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "docs/journeys.md", "docs/new-solver.md")  # in this order: each goes on from what is there
PATIENCE_S = 180.0  # for a server

_FENCE = re.compile(
    r"(?:<!-- (?P<mark>[^>]*) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)
_FILE = re.compile(r"# (?P<path>[\w./-]+\.(?:yaml|py|json))\n")


@dataclass(frozen=True)
class Fence:
    """A fenced block of a page.

    Args:
        line: of the page, counted from 1.
        language: as written behind the fence.
        text: all of it.
        not_run: why it is not run; empty where it is.
        background: the address that tells that it runs; empty for what ends by itself.
    """

    page: str
    line: int
    language: str
    text: str
    not_run: str = ""
    background: str = ""

    @property
    def file(self) -> str:
        """The file that it is; empty where it is none."""
        named = _FILE.match(self.text)
        return named["path"] if named and self.language != "sh" else ""

    @property
    def commands(self) -> list[str]:
        """One command each; lines that end with a backslash go on."""
        lines = self.text.replace("\\\n", "").splitlines() if self.language == "sh" else []
        return [line for line in lines if line.strip() and not line.startswith("#")]


@dataclass
class Told:
    """What was done: each command with its seconds, and each that was not with the reason."""

    done: list[tuple[str, float]] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)


def fences(page: str, root: Path = ROOT) -> Iterator[Fence]:
    """The fenced blocks of a page, in their order.

    Raises:
        ValueError: a comment before a fence that is none of those above.
    """
    text = (root / page).read_text(encoding="utf-8")
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start("language")) + 1
        kind, _, value = (match["mark"] or "").partition(": ")
        if kind not in ("", "not run", "background") or (kind and not value):
            raise ValueError(f"{page}:{line}: a comment before a fence is 'not run: WHY' or 'background: ADDRESS'")
        marks = {kind.replace(" ", "_"): value} if kind else {}
        yield Fence(page, line, match["language"], match["text"], **marks)


def cloned(folder: Path, venv: Path | None) -> dict[str, str]:
    """Clones the last commit into a folder, unless that was done before; returns the environment of its commands."""
    if not (folder / ".git").exists():
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    others = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "MLFLOW_TRACKING_URI")}
    environment = {**others, "PATH": f"{folder}/.venv/bin:{os.environ['PATH']}"}
    if venv is None:
        return environment
    if not (folder / ".venv").exists():
        _borrow(folder / ".venv", venv.absolute())
    return {**environment, "PYTHONPATH": str(folder)}


def _borrow(mine: Path, venv: Path) -> None:
    """An environment of links to another one, which stays as it is: the clone's own code comes first."""
    (mine / "bin").mkdir(parents=True)
    shutil.copy(venv / "pyvenv.cfg", mine)
    (mine / "lib").symlink_to(venv / "lib")
    for program in (venv / "bin").iterdir():
        (mine / "bin" / program.name).symlink_to(program)
    (mine / ".ready").touch()


@dataclass(frozen=True)
class Reader:
    """Who does what pages say.

    Args:
        folder: where.
        environment: of the commands.
        skip: commands that begin so are left out.
    """

    folder: Path
    environment: dict[str, str]
    skip: tuple[str, ...] = ()

    def follow(self, fence: Fence, told: Told) -> None:
        """Does what a fence says.

        Raises:
            SystemExit: a command failed.
        """
        if fence.not_run:
            told.left += [(command, fence.not_run) for command in fence.commands]
        elif fence.language == "diff":
            self._run("git apply -", fence, told, fence.text)
        elif fence.file:
            path = self.folder / fence.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(fence.text, encoding="utf-8")
        for command in [] if fence.not_run else fence.commands:
            if self.skip and command.startswith(self.skip):
                told.left.append((command, "left out by --skip"))
            else:
                self._run(command, fence, told)

    def _run(self, command: str, fence: Fence, told: Told, stdin: str = "") -> None:
        print(f"\n=== {fence.page}:{fence.line}  $ {command}", flush=True)
        if fence.background and _answers(fence.background):
            raise SystemExit(f"{fence.page}:{fence.line}: another server answers at {fence.background}: stop it first")
        begin = time.monotonic()
        process = subprocess.Popen(
            ["bash", "-c", command], cwd=self.folder, env=self.environment, stdin=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        try:
            code = _answered(process, fence.background) if fence.background else _ended(process, stdin)
        finally:
            _stop(process)
        seconds = time.monotonic() - begin
        print(f"=== {seconds:.1f} s, exit code {code}", flush=True)
        if code:
            raise SystemExit(f"{fence.page}:{fence.line}: failed: {command}")
        told.done.append((command, seconds))


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except OSError:
        return False


def _answered(server: "subprocess.Popen[str]", address: str) -> int:
    """Waits until a server answers. 0 where it does."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end and server.poll() is None:
        if _answers(address):
            return 0
        time.sleep(0.5)
    return server.returncode or 1


def _ended(process: "subprocess.Popen[str]", stdin: str) -> int:
    process.communicate(stdin)
    return process.returncode


def _stop(process: "subprocess.Popen[str]") -> None:
    """Also what it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", default=PAGES, metavar="PAGE")
    parser.add_argument("--venv", type=Path, help="an environment to use instead of a new one")
    parser.add_argument("--skip", action="append", default=[], metavar="COMMAND", help="leave out: such as 'make test'")
    parser.add_argument("--begin", type=int, default=0, metavar="LINE", help="of the first page; nothing before it")
    parser.add_argument("--keep", type=Path, help="where the clone goes, stays, and is gone on in")
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    told, folder = Told(), arguments.keep or Path(tempfile.mkdtemp(prefix="sigmasweep-readme-"))
    try:
        reader = Reader(folder, cloned(folder, arguments.venv), tuple(arguments.skip))
        for page in arguments.pages:
            for fence in fences(page, folder):
                if page != arguments.pages[0] or fence.line >= arguments.begin:
                    reader.follow(fence, told)
    finally:
        for command, seconds in told.done:
            print(f"{seconds:8.1f} s  {command}")
        for command, reason in told.left:
            print(f" not run    {command}    ({reason})")
        if arguments.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
