"""What stands in the docs, for tests that do what the docs say."""

import re
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def blocks(name: str, language: str) -> list[str]:
    """The fenced blocks of a language in a page, in their order.

    Args:
        name: of the page, such as `tracking.md`.
        language: the word after the fence.
    """
    return re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / name).read_text(), re.MULTILINE | re.DOTALL)
