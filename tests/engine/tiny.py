"""A store with checkpoints of a small network with random weights, and points on them: for the tests of generation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.data.samples import Execution, committed_chunks, read_chunk
from pipeline.data.store import Store
from pipeline.diffusion.labels import Balanced
from pipeline.diffusion.preconditioning import EDMPreconditioning
from pipeline.diffusion.sampling import Sampler
from pipeline.diffusion.timesteps import EDMSteps
from pipeline.engine.work import ExtractorPlan, Point
from pipeline.metrics.extractors import Classifier
from pipeline.metrics.extractors.classifier import ClassifierNetwork, to_bytes
from pipeline.networks import DDPMpp
from pipeline.training.settings import ModelSpec
from pipeline.training.snapshot import CheckpointRef, commit_snapshot

EXECUTION = Execution(batch_size=8, chunk_size=16, device="cpu")
MODEL = ModelSpec(
    network=DDPMpp(model_channels=16, channel_mult=(1, 2), num_blocks=1, attn_resolutions=(8,)),
    preconditioning=EDMPreconditioning(),
    sigma_data=0.5,
    resolution=8,
    channels=1,
    num_classes=10,
)


def put_snapshot(
    store: Store, name: str, seed: int, spoilt: bool = False, model: ModelSpec = MODEL, **settings: Any
) -> None:
    """Random weights, of every layer; a spoilt one has a weight that is not a number. `settings` of its training."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = model.network.build(model.resolution, model.channels, model.num_classes)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    state = dict(network.state_dict())
    if spoilt:
        state[next(iter(state))] = torch.full_like(next(iter(state.values())), torch.nan)
    meta = {"settings": settings, "dataset": {"name": "none", "digest": "none"}}
    commit_snapshot(store, f"{name}-{seed:08x}", 1000, model, {"raw": state}, meta)


def tiny_store(root: Path, num_checkpoints: int = 2) -> Store:
    store = Store(root)
    for seed in range(num_checkpoints):
        put_snapshot(store, f"net{seed}", seed)
    return store


def tiny_points(num_checkpoints: int = 2, steps: Sequence[int] = (3, 5)) -> list[Point]:
    return [
        Point(f"net{c} {n} steps", CheckpointRef(f"net{c}"), Sampler(timesteps=EDMSteps(num_steps=n)), Balanced())
        for c in range(num_checkpoints)
        for n in steps
    ]


def classifier_plan(seed: int = 0) -> ExtractorPlan:
    """An extractor that was never trained."""
    settings = Classifier(width=4, num_features=6)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = ClassifierNetwork(MODEL.shape, MODEL.num_classes, settings.width, settings.num_features)
    return ExtractorPlan(settings, to_bytes(network))


def contents(store: Store) -> dict[str, str]:
    """The content digest of every chunk of samples, verified, by its key."""
    digests = {key.split("/")[1] for key in store.committed("samples")}
    return {
        f"{digest}/{index}": read_chunk(store, digest, index).content_digest
        for digest in digests
        for index in committed_chunks(store, digest)
    }
