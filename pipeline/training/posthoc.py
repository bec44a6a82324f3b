"""Weights averaged over another span than any that was tracked, rebuilt from stored snapshots after the training."""

import re
from collections.abc import Mapping, Sequence

import safetensors.torch
import torch
from torch import Tensor

from pipeline.data.store import Manifest, Store
from pipeline.errors import CheckpointError
from pipeline.training.power_ema import (
    PREFIX,
    Combination,
    Profile,
    check_std,
    gamma_of,
    nearest_combination,
)

REVISION = 1  # of this module; raised when the same snapshots would give other weights
LARGEST_ERROR = 0.1  # of the profile; beyond it the weights would not be what their name says

_NAME = re.compile(r"posthoc-(?P<std>.*)")


def posthoc_std(name: str | None) -> float | None:
    """The std that the name of weights such as `posthoc-0.075` asks for; None for another kind of name.

    Raises:
        ValueError: it asks for what no profile has.
    """
    if name is None or not (match := _NAME.fullmatch(name)):
        return None
    try:
        std = float(match["std"])
    except ValueError:
        raise ValueError(f"must be posthoc-<std>, such as posthoc-0.075 (got {name!r})") from None
    check_std(std)
    return std


def posthoc_name(std: float) -> str:
    return f"posthoc-{std:g}"


class Recipe:
    """How weights of one profile come from the tracked ones of some snapshots.

    The profile ends at the last of them. One that ended between two could not be told from its neighbours: half way
    between the 16th and the 17th of evenly spaced snapshots it would be off by 29 %.

    Args:
        where: of what an error speaks.
        snapshots: manifests of a training's snapshots, ascending.
        std: relative width of the profile wanted.

    Raises:
        CheckpointError: the training tracks no power-function averages, or the snapshots are too few for this profile.
    """

    def __init__(self, where: str, snapshots: Sequence[Manifest], std: float) -> None:
        self._parts = [(manifest, name, profile) for manifest in snapshots for name, profile in _tracked(manifest)]
        if not self._parts:
            problem = f"has no power-function averages to rebuild {posthoc_name(std)} from: train with ema.power_stds"
            raise CheckpointError(where, problem)
        profiles = [profile for _, _, profile in self._parts]
        target = Profile(gamma_of(std), profiles[-1].time)
        self.combination: Combination = nearest_combination(profiles, target)
        if not self.combination.error <= LARGEST_ERROR:
            raise CheckpointError(
                where,
                f"{posthoc_name(std)} cannot be rebuilt from {_counted(len(snapshots))}: its profile would be off by "
                f"{self.combination.error:.0%}; take an std nearer to those tracked ({_stds(snapshots[-1])}), or "
                "train with more snapshots (snapshot_kimg)",
            )

    @property
    def sources(self) -> list[str]:
        """sha256 of every set of weights that takes part, in their order: with the std, what the result is made of."""
        return [manifest.blobs[_blob(name)].sha256 for manifest, name, _ in self._parts]

    def weights(self, store: Store) -> dict[str, Tensor]:
        """The state dictionary in float32: sums in float64, in the order of the snapshots.

        What is the same in all of them, as buffers are, stays so to the last bit.

        Raises:
            StoreError: stored weights are missing or damaged.
        """
        first = _state(store, *self._parts[0][:2])
        sums = {key: torch.zeros(value.shape, dtype=torch.float64) for key, value in first.items()}
        changed: set[str] = set()
        for (manifest, name, _), factor in zip(self._parts, self.combination.factors, strict=True):
            for key, value in _state(store, manifest, name).items():
                sums[key].add_(value.to(torch.float64), alpha=factor)
                if key not in changed and not torch.equal(value, first[key]):
                    changed.add(key)
        whole = {key: sums[key] if key in changed else value for key, value in first.items()}
        return {key: value.to(torch.float32) if value.is_floating_point() else value for key, value in whole.items()}


def _tracked(manifest: Manifest) -> list[tuple[str, Profile]]:
    moment = float(manifest.meta["num_images"])
    names: list[str] = [name for name in manifest.meta["weights"] if name.startswith(PREFIX)]
    return [(name, Profile(gamma_of(float(name.removeprefix(PREFIX))), moment)) for name in names]


def _stds(manifest: Manifest) -> str:
    return ", ".join(name.removeprefix(PREFIX) for name, _ in _tracked(manifest))


def _state(store: Store, manifest: Manifest, name: str) -> Mapping[str, Tensor]:
    state: Mapping[str, Tensor] = safetensors.torch.load(store.blob(manifest, _blob(name)))
    return state


def _blob(name: str) -> str:
    return f"{name}.safetensors"


def _counted(count: int) -> str:
    return "one snapshot" if count == 1 else f"{count} snapshots"
