"""What Ray workers have to say, told by the driver: each line once, without a prefix, among no lines of Ray's own."""

from dataclasses import dataclass
from typing import Any, Literal

from pipeline.training.console import Console

Line = tuple[Literal["say", "show"], str]


class _Letters:
    """The actor that lines wait in."""

    def __init__(self) -> None:
        self._lines: list[Line] = []

    def put(self, line: Line) -> None:
        self._lines.append(line)

    def take(self) -> list[Line]:
        lines, self._lines = self._lines, []
        return lines


class Mailbox:
    """Belongs to the driver. Needs a Ray session."""

    def __init__(self) -> None:
        import ray

        self._letters = ray.remote(_Letters).options(num_cpus=0).remote()

    def deliver(self, console: Console) -> int:
        """Tells what has come since the last time, and how many lines; none where the actor was lost, for work goes on
        without."""
        import ray
        from ray.exceptions import RayActorError

        try:
            lines: list[Line] = ray.get(self._letters.take.remote())
        except RayActorError:
            return 0
        for kind, text in lines:
            console.say(text) if kind == "say" else console.show(text)
        return len(lines)

    @property
    def slot(self) -> "MailConsole":
        """A console for the workers."""
        return MailConsole(self._letters)


@dataclass(frozen=True)
class MailConsole:
    """A console whose lines go to the driver. Picklable."""

    letters: Any

    def say(self, text: str) -> None:
        self.letters.put.remote(("say", text))

    def show(self, text: str) -> None:
        self.letters.put.remote(("show", text))
