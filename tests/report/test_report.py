"""The report: one file that asks for nothing, made of the store alone, and readable on any screen."""

import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from jobs import cli, report
from pipeline.config.benchmarks import TimingSettings
from pipeline.config.measuring import MetricSettings, TrajectorySettings
from pipeline.config.upkeep import ReportJob
from pipeline.data.samples import Execution, committed_chunks, give_up_images
from pipeline.data.store import Store
from pipeline.diffusion.labels import Balanced
from pipeline.diffusion.sampling import Sampler
from pipeline.diffusion.solvers import Euler, Heun
from pipeline.diffusion.stochasticity import Churn
from pipeline.diffusion.timesteps import EDMSteps
from pipeline.engine.benchmark import benchmark
from pipeline.engine.benchmark_record import commit_record, commit_search_record, find_record, read_record
from pipeline.engine.benchmark_result import BenchmarkResult
from pipeline.engine.generation import Seeds
from pipeline.engine.measures import build_measures
from pipeline.engine.work import Actors, Point
from pipeline.report.content import Content, content_of
from pipeline.report.page import page, write
from pipeline.reporting import MemoryReporter
from pipeline.training.snapshot import CheckpointRef
from tests.browser import chromium
from tests.engine.digits import CLASSIFIER, put_dataset, put_snapshot

REF, HERE = CheckpointRef("tiny"), Actors(num_actors=0)
HOSTILE = "<script>alert('x')</script>"
LONG = "heun, num_steps=18, rho=7, churn S_churn=40 S_min=0.05 S_max=50 S_noise=1.003, sigma_min=0.002, sigma_max=80"
POINTS = [
    *(
        Point(f"euler, num_steps={n}", REF, Sampler(timesteps=EDMSteps(num_steps=n), solver=Euler()), Balanced())
        for n in (4, 8, 16)
    ),
    Point(HOSTILE, REF, Sampler(timesteps=EDMSteps(num_steps=5), solver=Heun()), Balanced()),
    Point(LONG, REF, Sampler(stochasticity=Churn()), Balanced()),
]
SEARCH = {
    "name": "hunt", "distance": "FD, classifier", "spent": 1234.0, "brute_force": 5678.0,
    "summary": ["40 settings tried in 9 steps", "spent 1,234 network evaluations"],
    "marks": [{"series": "100 images", "cost": 4.0 + n, "distance": 9 / (n + 1), "best": n % 3 == 0} for n in range(9)],
    "pairs": [{"name": "euler, num_steps=4 less heun", "told": "0.52 ± 0.11"}],
}  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("store"))
    put_dataset(store, "a", 0, 600)
    put_dataset(store, "b", 600, 1200)
    put_snapshot(store)
    return store


@pytest.fixture(scope="module")
def told(store: Store) -> BenchmarkResult:
    execution = Execution(batch_size=40, chunk_size=40)
    metrics = MetricSettings(extractors=[CLASSIFIER], classifier_dataset="b")
    measures = build_measures(store, metrics, "a", execution, HERE, progress=False)
    return benchmark(
        store, "bench", POINTS, Seeds(0, 80), measures, execution, HERE, MemoryReporter(),
        TimingSettings(images=8, repeats=2), progress=False, trajectory=TrajectorySettings(num_seeds=20),
    )  # fmt: skip


@pytest.fixture(scope="module")
def content(store: Store, told: BenchmarkResult) -> Content:
    return content_of(Store(store.uri), *find_record(Store(store.uri), "bench"))


class _Reader(HTMLParser):
    """Collects the text, and all that a browser might fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.addresses, self.tags = "", list[str](), list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]

    def handle_data(self, data: str) -> None:
        self.text += data


def read(html: str) -> _Reader:
    reader = _Reader()
    reader.feed(html)
    return reader


def test_the_page_holds_all_that_it_shows(content: Content) -> None:
    html = page(content)
    found = read(html)
    assert len(found.addresses) > 8
    assert all(address.startswith("data:") for address in found.addresses)
    assert "url(" not in html
    assert "@import" not in html
    assert "script" not in found.tags


def test_names_are_text_and_never_markup(content: Content) -> None:
    html = page(content)
    assert HOSTILE not in html
    assert HOSTILE in read(html).text


def test_every_number_of_the_table_is_there(content: Content, told: BenchmarkResult) -> None:
    assert len(content.lines) == len(content.strips) == len(told.rows)
    for line, row in zip(content.lines, told.rows, strict=True):
        assert line.cells[:2] == (row.name, f"{row.nfe:g}")
        assert line.best == row.pareto
    text = read(page(content)).text
    for words in (
        "Protocol",
        "seeds 0 to 79",
        "What was compared with what",
        "Cost",
        "measured warm",
        "Class by class",
    ):
        assert words in text
    assert all(row.samples_digest in text for row in told.rows)
    assert [strip.title for strip in content.classes] == [str(digit) for digit in range(10)]


def test_a_benchmark_that_is_told_again_has_one_record(store: Store, told: BenchmarkResult) -> None:
    assert store.committed("benchmarks") == [f"benchmarks/{told.digest}"]
    assert read_record(store, told.digest)["name"] == "bench"


def test_images_that_were_given_up_are_left_out_and_the_numbers_stay(
    store: Store, told: BenchmarkResult, tmp_path: Path
) -> None:
    shutil.copytree(store.uri, tmp_path / "store")
    other = Store(tmp_path / "store")
    for row in told.rows:
        for index in committed_chunks(other, row.samples_digest):
            give_up_images(other, row.samples_digest, index)
    content = content_of(other, *find_record(other, "bench"))
    assert not content.strips
    assert not content.classes
    assert len(content.lines) == len(told.rows)
    assert "Class by class" not in page(content)


def test_scores_by_class_have_a_table_of_their_own(store: Store, told: BenchmarkResult) -> None:
    record: dict[str, Any] = read_record(store, told.digest)
    names = [row["name"] for row in record["rows"]]
    of_class = {"num_images": 40, "distance": None}
    accuracies = ({"value": 0.5, "low": 0.35, "high": 0.65}, {"value": 0.75, "low": None, "high": None})
    classes = [{**of_class, "label": label, "accuracy": found} for label, found in enumerate(accuracies)]
    record["classes"] = dict.fromkeys(names, classes)
    [(score, columns, lines)] = content_of(store, record).per_class
    assert (score, columns) == ("accuracy", ("setting", "0", "1"))
    assert lines[0].cells == (names[0], "0.50 ± 0.15", "0.75")


def test_scores_beside_the_distance_have_columns_and_settings_are_compared(store: Store, told: BenchmarkResult) -> None:
    record: dict[str, Any] = read_record(store, told.digest)
    record["scores"] = [{"key": "kd", "title": "KD"}]
    record["rows"] = [{**row, "scores": {"kd": {"value": 2.0, "low": 1.0, "high": 3.0}}} for row in record["rows"]]
    content = content_of(store, record)
    place = content.columns.index("KD")
    assert {line.cells[place] for line in content.lines} == {"2.0 ± 1.0"}
    head, lines = content.against
    assert len(lines) == len(told.rows)
    assert lines[0].cells[3] == "what the others are compared with"
    assert all("±" in line.cells[3] and line.cells[4].endswith("%") for line in lines[1:])
    assert head[4] == "P(better)"


def test_a_search_has_its_trials_and_its_final_stage_on_one_page(
    store: Store, told: BenchmarkResult, tmp_path: Path
) -> None:
    shutil.copytree(store.uri, tmp_path / "store")
    other = Store(tmp_path / "store")
    commit_search_record(other, "5" * 32, {**SEARCH, "final": told.digest})
    content = content_of(other, *find_record(other, "hunt"))
    assert [figure.name for figure in content.figures] == ["quality_against_nfe", "search"]
    assert len(content.lines) == len(told.rows)
    text = read(page(content)).text
    assert "0.52 ± 0.11" in text
    assert "21.7%" in text
    commit_search_record(other, "6" * 32, {**SEARCH, "name": "alone", "final": ""})
    assert "All settings" not in page(content_of(other, *find_record(other, "alone")))


def test_the_newest_of_a_name_is_shown(store: Store, told: BenchmarkResult, tmp_path: Path) -> None:
    shutil.copytree(store.uri, tmp_path / "store")
    other = Store(tmp_path / "store")
    record = read_record(other, told.digest)
    commit_record(other, "7" * 32, {**record, "rows": record["rows"][:1]})
    assert len(find_record(other, "bench")[0]["rows"]) == 1
    assert len(find_record(other, told.digest)[0]["rows"]) == len(told.rows)


def test_the_job_writes_the_page_and_says_what_there_is(
    store: Store, told: BenchmarkResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.yaml"
    path.write_text(f"store: {store.uri}\nname: bench\nout: {tmp_path / 'out'}\n")
    assert cli.run(ReportJob, report.main, None, argv=[str(path)]) == 0
    assert (tmp_path / "out" / "report.html").is_file()
    assert (tmp_path / "out" / "quality_against_nfe.png").read_bytes().startswith(b"\x89PNG")
    assert cli.run(ReportJob, report.main, None, argv=[str(path), "--set", "name=benhc"]) == 2
    assert (
        "no benchmark or search of the name 'benhc' was told into this store; there are bench"
        in capsys.readouterr().err
    )


# -- in a browser -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser_nothing_overflows_and_nothing_is_asked_of_others(
    store: Store, told: BenchmarkResult, browser: Any, tmp_path: Path, width: int, scheme: str
) -> None:
    record = {**read_record(store, told.digest)}
    path = write(content_of(store, record, {**SEARCH, "final": told.digest}), tmp_path)
    opened = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    asked, complaints = list[str](), list[str]()
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("console", lambda message: complaints.append(message.text))
    opened.goto(path.as_uri())
    outside = [url for url in asked if not url.startswith("data:")]
    assert outside == [path.as_uri()]
    assert complaints == []
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    broken = "[...document.images].filter(image => !image.complete || image.naturalWidth === 0).length"
    assert opened.evaluate(broken) == 0
    wide = """[...document.querySelectorAll('main *')].filter(element => !element.closest('.scroll')
        && element.getBoundingClientRect().right > document.documentElement.clientWidth + 1).length"""
    assert opened.evaluate(wide) == 0
    paper = opened.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(23, 25, 28)"}[scheme]
    opened.screenshot(path=str(tmp_path / f"{scheme}-{width}.png"), full_page=True)
    opened.close()
