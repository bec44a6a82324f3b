"""The report as a page: one file, its style and pictures within, nothing asked of any other place."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.errors import StoreError
from pipeline.report.content import Content
from pipeline.report.pictures import png_uri

NAME = "report.html"
_TEMPLATE = "page.html"


def page(content: Content) -> str:
    """The page as HTML. All texts are escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["uri"] = png_uri
    return environment.get_template(_TEMPLATE).render(content=content)


def write(content: Content, folder: Path) -> Path:
    """Writes the page and its figures, and returns where the page lies.

    Raises:
        StoreError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for figure in content.figures:
            (folder / f"{figure.name}.png").write_bytes(figure.light)
        path = folder / NAME
        path.write_text(page(content), encoding="utf-8")
    except OSError as error:
        raise StoreError(folder, f"cannot be written ({error.strerror or error})") from error
    return path
