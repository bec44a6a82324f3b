"""Saved views and addresses: what is written into the experiment, and that MLflow's own page understands it."""

import json
import logging
from pathlib import Path
from urllib.parse import unquote

import pytest
from mlflow.exceptions import MlflowException

from jobs.screen import note
from pipeline.tracking import links, names
from pipeline.tracking.client import EXPERIMENT_NOTE, MAX_VIEWS, MAX_VIEWS_OF_GROUP, TrackingClient
from pipeline.tracking.delivery import MAX_PIECE_TRIES, Delivery
from pipeline.tracking.hub import Hub
from pipeline.tracking.mlflow_reporter import MlflowReporter
from pipeline.tracking.spool_reader import SpoolReader
from pipeline.tracking.views import VIEW_TAG, View, benchmark_view, search_view, where
from tests.browser import chromium
from tests.tracking.conftest import EXPERIMENT, Server
from tests.tracking.test_delivery import DirectHub, runs, send, start

VIEW = benchmark_view("solvers", "p1", (0, 96), names.FD, ["accuracy"])


@pytest.fixture
def hub(client: TrackingClient, tmp_path: Path) -> Hub:
    return DirectHub(client.mlflow._tracking_client.tracking_uri, EXPERIMENT, str(tmp_path / "spool"))


def tell(client: TrackingClient, hub: Hub, view: View) -> None:
    with start(hub) as run:
        run.view(view)
    send(client, hub.folder)


def tags(client: TrackingClient) -> dict[str, str]:
    return dict(client.mlflow.get_experiment(client.experiment_id()).tags)


def test_a_view_is_saved_in_the_experiment_which_gets_a_description(client: TrackingClient, hub: Hub) -> None:
    tell(client, hub, VIEW)
    saved = json.loads(tags(client)[VIEW_TAG + VIEW.key])
    assert saved["name"] == "solvers, seeds 0-95"
    assert json.loads(saved["state"])["orderByKey"] == "metrics.`fd`"
    assert tags(client)[names.NOTE] == EXPERIMENT_NOTE


def test_the_same_benchmark_again_renews_its_view_but_not_one_that_a_person_changed(
    client: TrackingClient, hub: Hub
) -> None:
    tell(client, hub, VIEW)
    tell(client, hub, benchmark_view("solvers", "p1", (0, 96), names.FID))
    saved = json.loads(tags(client)[VIEW_TAG + VIEW.key])
    assert json.loads(saved["state"])["orderByKey"] == "metrics.`fid`"
    changed = json.dumps({**saved, "updatedAt": saved["createdAt"] + 1})  # as the page does
    client.mlflow.set_experiment_tag(client.experiment_id(), VIEW_TAG + VIEW.key, changed)
    client.mlflow.set_experiment_tag(client.experiment_id(), names.NOTE, "ours")
    tell(client, hub, VIEW)
    assert tags(client)[VIEW_TAG + VIEW.key] == changed
    assert tags(client)[names.NOTE] == "ours"


def test_views_do_not_pile_up_and_those_of_people_stay(client: TrackingClient) -> None:
    def save(key: str, group: str, time: int) -> None:
        value = {"name": key, "group": group, "createdAt": time, "updatedAt": time, "state": "{}"}
        client.save_view(key, json.dumps(value))

    save("mine", "nightly", 0)  # a person's: its key does not begin as ours do
    for night in range(MAX_VIEWS_OF_GROUP + 2):
        save(f"sigmasweep-night-{night}", "nightly", night)
    kept = {key.removeprefix(VIEW_TAG) for key in tags(client) if key.startswith(VIEW_TAG)}
    assert kept == {"mine", *(f"sigmasweep-night-{night}" for night in range(2, MAX_VIEWS_OF_GROUP + 2))}
    for number in range(MAX_VIEWS):
        save(f"sigmasweep-{number}", f"group {number}", 100 + number)
    kept = {key.removeprefix(VIEW_TAG) for key in tags(client) if key.startswith(VIEW_TAG)}
    assert kept == {"mine", *(f"sigmasweep-{number}" for number in range(MAX_VIEWS))}


def test_a_data_set_is_an_input_of_the_run_once(client: TrackingClient, hub: Hub) -> None:
    for _ in range(2):
        with start(hub) as run:
            run.dataset("digits", "ab936602c9a13a5edfaa8ec1466d7a49", "reference", {"images": 3500})
        send(client, hub.folder)
    (run,) = runs(client)
    (found,) = run.inputs.dataset_inputs
    assert (found.dataset.name, found.dataset.digest) == ("digits", "ab936602")
    assert json.loads(found.dataset.profile) == {"digest": "ab936602c9a13a5edfaa8ec1466d7a49", "images": 3500}
    assert {tag.key: tag.value for tag in found.tags} == {"mlflow.data.context": "reference"}


def test_a_server_that_refuses_a_view_costs_nothing_else(
    client: TrackingClient, hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    long = View("x" * 30_000, "", {"kind": "sampler"}, ["metrics.fd"])
    with start(hub) as run:
        run.view(long)
        run.metrics({"fd": 1.0})
    (path,) = hub.folder.files()
    delivery = Delivery(client, SpoolReader(path), lambda key, run_id: None)  # kept, as the sender keeps it
    for _ in range(MAX_PIECE_TRIES - 1):
        with pytest.raises(MlflowException):
            delivery.send(is_shared=False)
    with caplog.at_level(logging.WARNING):
        delivery.send(is_shared=False)
    (found,) = runs(client)
    assert found.data.metrics == {"fd": 1.0}
    assert "is given up" in caplog.text


def test_the_same_runs_have_one_view_whatever_is_shown_of_them() -> None:
    def view(name: str, protocol: str, distance: str) -> View:
        return benchmark_view(name, protocol, (0, 96), distance)

    assert view("a", "p1", "fd").key == view("a", "p1", "fid").key
    others = [view("a", "p1", "fd"), view("b", "p1", "fd"), view("a", "p2", "fd"), search_view("a")]
    assert len({other.key for other in others}) == 4


def test_a_name_with_a_quote_is_found_by_mlflow(client: TrackingClient, hub: Hub) -> None:
    wanted = {"benchmark": "Karras' own", "kind": "sampler"}
    with start(hub, **wanted):
        pass
    with start(hub, "other", kind="sampler", benchmark="another"):
        pass
    send(client, hub.folder)
    found = client.mlflow.search_runs([client.experiment_id()], where(wanted))
    assert [run.data.tags["benchmark"] for run in found] == ["Karras' own"]


def test_the_address_of_the_compare_page_is_as_the_page_parses_it() -> None:
    address = links.side_by_side_link("http://me:secret@host:5000", "7", ["a", "b"])
    page, _, query = address.partition("?")
    runs, experiments, workflow = unquote(query).split("&")
    assert page == "http://host:5000/#/compare-runs"
    assert json.loads(runs.removeprefix("runs=")) == ["a", "b"]
    assert json.loads(experiments.removeprefix("experiments=")) == ["7"]
    assert workflow == "workflowType=machine_learning"


def test_a_description_fits_a_tag_and_says_where_the_rest_is() -> None:
    line = "| heun, num_steps=18      | 35 |"
    short = note("\n".join([line] * 3), {"table": "http://127.0.0.1:5000/#/experiments/1/runs?a=b"}, "table.md")
    assert short.splitlines() == ["[table](#/experiments/1/runs?a=b)", "", *["| heun, num_steps=18 | 35 |"] * 3]
    long = note("\n".join([line] * 400), {}, "table.md")
    assert len(long) < names.MAX_TAG_LENGTH
    assert long.endswith("All of it: `table.md`, among the artifacts.")


def test_the_page_of_a_server_shows_the_view_that_was_reported_to_it(server: Server, tmp_path: Path) -> None:
    """The short one; tests/jobs/test_screen.py looks at everything."""
    reporter = MlflowReporter(server.uri, EXPERIMENT, str(tmp_path / "spool"), flush_timeout=60)
    for steps, distance in ((4, 9.5), (8, 2.5), (16, 1.5)):
        tags = {"kind": "sampler", "benchmark": "solvers", "protocol_digest": "p1"}
        with reporter.run(f"k{steps}", f"heun, num_steps={steps}", tags) as run:
            run.params({"point": {"solver": "heun", "steps": steps}})
            run.metrics({"fd": distance, "nfe": 2 * steps - 1, "other": 1}, step=2 * steps - 1)
            run.view(VIEW)
    for protocol in ("p2", "p3"):  # numbers of other protocols are not ranked beside these
        tags = {"kind": "sampler", "benchmark": "solvers", "protocol_digest": protocol}
        with reporter.run(protocol, protocol, tags):
            pass
    assert reporter.flush()
    addresses = reporter.addresses(VIEW, ["k16", "k8", "k4"])
    assert list(addresses) == ["table", "charts", "side by side"]
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(60_000)
        page.goto(addresses["table"])
        page.get_by_text("3 matching runs").wait_for()
        names_shown = page.locator("[col-id='attributes.`Run Name`'].ag-cell").all_inner_texts()
        assert [name.split("\n")[-1] for name in names_shown] == [f"heun, num_steps={steps}" for steps in (16, 8, 4)]
        cells = page.locator(".ag-header-cell").all()  # in the page's source they stand in another order than on it
        shown = sorted(cells, key=lambda cell: int(cell.get_attribute("aria-colindex")))
        heads = [cell.inner_text().strip() for cell in shown]
        assert [head for head in heads if "." in head or head in ("fd", "nfe", "other")] == [
            "point.solver", "point.steps", "nfe", "fd",
        ]  # fmt: skip
        page.goto("about:blank")
        page.goto(reporter.link({"kind": "sampler", "benchmark": "solvers"}))  # the address without a saved view
        page.get_by_text("5 matching runs").wait_for()
