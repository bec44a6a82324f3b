"""Golden outputs: a few numbers of every part, stored with the revision of the part that made them.

After a change that is meant to alter what a part computes: raise the part's `revision`, then run

    python -m tests.diffusion.goldens

which rewrites the entries of new parts and of raised revisions, and no others.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pipeline.diffusion.denoiser import Denoiser
from pipeline.diffusion.sampling import Sampler, sample
from pipeline.diffusion.schedules import VP, VPScaling
from pipeline.diffusion.seeds import INITIAL, Noise, draw
from pipeline.diffusion.timesteps import EDMSteps, NoiseLevels, grid, steps_of
from tests.diffusion.mixture import Mixture
from tests.diffusion.parts import EMBEDDED, UNIONS, defaults

PATH = Path(__file__).with_name("goldens.json")
SIGMAS = torch.tensor([0.01, 0.5, 3.0, 70.0], dtype=torch.float64)
U = torch.tensor([0.001, 0.3, 0.5, 0.999], dtype=torch.float64)
SEEDS = torch.tensor([0, 12345, 2**63 - 1])
MIXTURE = Mixture(std=0.5)


class Golden(NamedTuple):
    """What a part computes: the owner whose revision covers it, and the numbers."""

    owner: type
    values: list[float]


def parts() -> dict[str, Golden]:
    """The numbers of every part as it is now, by "union.kind"."""
    found = {
        f"{union}.{part.kind}": Golden(type(part), _COMPUTE[union](part).flatten().double().tolist())
        for union in UNIONS
        for part in defaults(UNIONS[union])
    }
    return {**found, "Sampler.sampler": Golden(Sampler, _sampler().tolist())}


def _images(**settings: Any) -> Tensor:
    sampler = Sampler(**{"timesteps": EDMSteps(num_steps=4), "schedule": VP(), "scaling": VPScaling(), **settings})
    return sample(MIXTURE.denoise, NoiseLevels(), sampler, SEEDS, (1, 1, 2)).images


class _Sine(nn.Module):
    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None) -> Tensor:
        return torch.sin(x + c_noise.reshape(-1, 1, 1, 1))


def _schedule(part: Any) -> Tensor:
    t = part.sigma_inv(SIGMAS)
    return torch.cat([t, part.sigma(t), part.sigma_dot(t)])


def _timesteps(part: Any) -> Tensor:
    if steps_of(part) is not None:
        return grid(part, NoiseLevels())
    samplers = [Sampler(timesteps=part, solver=solver) for solver in EMBEDDED]
    samples = [sample(MIXTURE.denoise, NoiseLevels(), sampler, SEEDS, (1, 1, 2)) for sampler in samplers]
    return torch.cat([item.flatten().double() for pair in samples for item in pair])


def _preconditioning(part: Any) -> Tensor:
    denoised = Denoiser(_Sine(), part, 0.4)(SIGMAS.reshape(4, 1, 1, 1), SIGMAS).flatten()
    levels = part.levels()
    ends = torch.tensor([levels.sigma_min, min(levels.sigma_max, 1e9)], dtype=torch.float64)
    return torch.cat([*part.coefficients(SIGMAS, 0.4), denoised, ends, levels.round_sigma(SIGMAS)])


def _guidance(part: Any) -> Tensor:
    x, labels = SIGMAS.reshape(4, 1, 1, 1), torch.tensor([3, 0, 1, 2])
    guided = part.denoise(_labelled, x, SIGMAS, labels, Mixture(std=0.8).denoise)
    return torch.cat([guided.denoised.flatten(), guided.evaluations.double()])


def _labelled(x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
    """Without a label, the data is wider."""
    column = labels.reshape(4, 1, 1, 1)
    return torch.where(column < 0, Mixture(std=0.7).denoise(x, sigma), MIXTURE.denoise(x, sigma))


def _sampler() -> Tensor:
    """What belongs to no part: the generator, the path, the flow, the loop."""
    noise = Noise(SEEDS, (3,))
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    numbers = [noise.normal(draw(INITIAL, 1)), noise.uniform(7), noise.increment(t / 2, t), _images()]
    return torch.cat([item.flatten() for item in numbers])


_COMPUTE: dict[str, Any] = {
    "Schedule": _schedule,
    "Scaling": lambda part: torch.cat([part.s(SIGMAS), part.ds_dsigma(SIGMAS)]),
    "Timesteps": _timesteps,
    "Preconditioning": _preconditioning,
    "TrainingNoise": lambda part: part.sigma(U),
    "Weighting": lambda part: part.weight(SIGMAS, 0.4),
    "Solver": lambda part: _images(solver=part),
    "Beta": lambda part: part.decay(SIGMAS, SIGMAS / 2),
    "Stochasticity": lambda part: _images(stochasticity=part),
    "Guidance": _guidance,
    "Labels": lambda part: part.of(SEEDS, 10),
}


def stored() -> dict[str, dict[str, Any]]:
    return json.loads(PATH.read_text()) if PATH.exists() else {}


def main() -> None:
    old, new = stored(), {}
    for name, golden in sorted(parts().items()):
        same = name in old and old[name]["revision"] == golden.owner.revision
        new[name] = old[name] if same else {"revision": golden.owner.revision, "values": golden.values}
    PATH.write_text(json.dumps(new, indent=1) + "\n")


if __name__ == "__main__":
    main()
