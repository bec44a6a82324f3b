"""The files of a registered model: safetensors and JSON as `jobs.export_checkpoint` writes them, and for MLflow's
`pyfunc` its `MLmodel` with a few lines of Python that import this package. Nothing is pickled."""

from pathlib import Path

from pipeline.data.store import Store
from pipeline.training.importing import export_folder
from pipeline.training.snapshot import CheckpointRef, Snapshot

CODE_FILE = "model.py"
_CODE = '''"""Samples from the checkpoint beside this file, see docs/registry.md of sigmasweep."""

from mlflow.models import set_model

from pipeline.tracking.sampled_model import SampledModel  # the checkout of sigmasweep must be on PYTHONPATH

set_model(SampledModel())
'''


def write_model(store: Store, snapshot: Snapshot, folder: Path) -> None:
    """Writes a new folder that is at once a checkpoint to import and a model that MLflow can load.

    Raises:
        CheckpointError: the weights are damaged, or the folder is there or cannot be written.
    """
    from mlflow import pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ParamSchema

    from pipeline.tracking.sampled_model import params  # MLflow takes seconds to import; few jobs register

    export_folder(store, CheckpointRef(snapshot.training, snapshot.num_images, snapshot.weights), folder)
    (folder / CODE_FILE).write_text(_CODE, encoding="utf-8")
    model = Model(signature=ModelSignature(params=ParamSchema(params())))
    pyfunc.add_to_model(
        model, "mlflow.pyfunc.loaders.code_model", model_code_path=CODE_FILE, artifacts={"checkpoint": {"path": "."}}
    )
    model.save(str(folder / "MLmodel"))
