"""Plans: the moves that a sampler makes, one list for all samples or every sample on its own way.

A move is a step of the solver, or adding noise to climb back to a higher level (Restart). A plan makes a move from what
became of the moves before, and may take one back, sample by sample (adaptive step control).
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from pipeline.diffusion.preconditioning import per_sample
from pipeline.diffusion.schedules import Scaling
from pipeline.diffusion.solvers.base import MANY, Step
from pipeline.diffusion.timesteps import AdaptiveSteps
from pipeline.errors import RunFailedError


class Move(NamedTuple):
    """What the loop does next, sample by sample: from sigma to sigma_next, both float64 of shape (N,), on the CPU.

    sigma_next < sigma is a step of the solver, sigma_next > sigma adds noise, sigma_next == sigma leaves a sample alone
    (it has arrived).
    """

    sigma: Tensor
    sigma_next: Tensor


class Plan(Protocol):
    """Decides the moves. One plan drives one batch."""

    @property
    def num_steps(self) -> int:
        """The N that churn divides S_churn by."""
        ...

    @property
    def ahead(self) -> int:
        """How many steps follow the move that `next` gave last; MANY where nobody knows."""
        ...

    def next(self) -> Move | None:
        """The next move, or None when every sample has arrived."""
        ...

    def judge(self, step: Step) -> Tensor | None:
        """Which samples keep the step just made, bool of shape (N,); None is all."""
        ...


class FixedPlan:
    """All samples walk through one list of noise levels.

    Args:
        sigmas: from sigma_0 to 0, float64 of shape (number of moves + 1,). Where they rise, noise is added.
        num_samples: how many walk.
    """

    def __init__(self, sigmas: Tensor, num_samples: int) -> None:
        self._sigmas = sigmas
        self._num_samples = num_samples
        self._is_step: list[bool] = (sigmas.diff() < 0).tolist()
        self._index = 0

    @property
    def num_steps(self) -> int:
        return sum(self._is_step)

    @property
    def ahead(self) -> int:
        return sum(self._is_step[self._index :])

    def next(self) -> Move | None:
        if self._index == len(self._is_step):
            return None
        sigma, sigma_next = self._sigmas[self._index : self._index + 2]
        self._index += 1
        return Move(sigma.expand(self._num_samples), sigma_next.expand(self._num_samples))

    def judge(self, step: Step) -> Tensor | None:
        return None


class AdaptivePlan:
    """Every sample walks at its own pace in ln sigma, controlled by its own error; see `AdaptiveSteps`.

    Args:
        control: tolerances and coefficients.
        sigmas: where all begin, sigma_min and 0, float64 of shape (3,).
        error_order: the power of the step with which the solver's error falls.
        scaling: s, by which the states are scaled.
        num_samples: how many walk.
    """

    num_steps = MANY
    ahead = MANY

    def __init__(
        self, control: AdaptiveSteps, sigmas: Tensor, error_order: int, scaling: Scaling, num_samples: int
    ) -> None:
        self._control = control
        self._error_order = error_order
        self._scaling = scaling
        self._sigma = sigmas[:1].repeat(num_samples)
        self._sigma_min = sigmas[1]
        self._length = torch.full_like(self._sigma, control.initial_step)
        self._past = (torch.zeros_like(self._sigma), torch.zeros_like(self._sigma))  # logs of the two errors before
        self._attempts = 0
        self._target = self._sigma

    def next(self) -> Move | None:
        if not bool((self._sigma > 0).any()):
            return None
        if self._attempts == self._control.max_steps:
            raise self._failure(self._sigma > 0, f"have not arrived after {self._attempts} steps, rejected ones among "
                                "them; raise timesteps.rtol and atol, or max_steps")  # fmt: skip
        self._attempts += 1
        stepping = self._sigma > self._sigma_min
        rest = (self._sigma / self._sigma_min).clamp(min=1).log()
        arriving = self._length >= 0.99 * rest  # a step a little too long is better than a tiny one after it
        self._length = torch.where(stepping & arriving, rest, self._length)
        shorter = torch.where(arriving, self._sigma_min, self._sigma * (-self._length).exp())
        self._target = torch.where(stepping, shorter, 0.0)
        return Move(self._sigma, self._target)

    def judge(self, step: Step) -> Tensor | None:
        stepping = self._target > 0
        if step.error is None:  # all were on their last step, or at rest
            self._sigma = self._target
            return None
        log_error = _log_rms(step.error / self._tolerance(step.x))
        kept = ~stepping | (log_error <= 0)
        self._sigma = torch.where(kept, self._target, self._sigma)
        self._resize(stepping, kept, log_error)
        return kept

    def _tolerance(self, x: Tensor) -> Tensor:
        """What each element may be off by, in the scale of the states."""
        return per_sample(self._control.atol * self._scaling.s(self._target), x) + self._control.rtol * x.abs()

    def _resize(self, stepping: Tensor, kept: Tensor, log_error: Tensor) -> None:
        """The controller, on the logs of the errors: a PID in the form of three exponents (Soederlind 2003)."""
        control, (before, long_before) = self._control, self._past
        p, i, d = control.pcoeff, control.icoeff, control.dcoeff
        wanted = (p + i + d) * log_error - (p + 2 * d) * before + d * long_before
        factor = control.safety * (-wanted / self._error_order).exp()
        highest = torch.where(kept, control.factor_max, control.safety)  # a step tried again is shorter
        factor = torch.minimum(factor, highest).clamp(min=control.factor_min)
        self._length = torch.where(stepping, self._length * factor, self._length)
        passed = stepping & kept
        self._past = torch.where(passed, log_error, before), torch.where(passed, before, long_before)
        stuck = stepping & ~kept & (self._length < _SHORTEST)
        if bool(stuck.any()):
            raise self._failure(stuck, "keep too large an error however short the step; the denoiser's answers jump "
                                "or are not finite, or timesteps.rtol and atol are beyond its precision")  # fmt: skip

    def _failure(self, where: Tensor, problem: str) -> RunFailedError:
        highest = float(self._sigma[where].max())
        sentence = f"{int(where.sum())} of {len(where)} samples (at sigma = {highest:.4g} or below) {problem}"
        return RunFailedError("the adaptive time grid", sentence)


_SHORTEST = 1e-6  # in ln sigma


def _log_rms(values: Tensor) -> Tensor:
    """ln of the root mean square over each sample's elements, shape (N,), within +-50; what is not a number is 50.

    Added up in pairs, element by element: torch's own sum may take another order for one sample than for many.
    """
    squares = values.flatten(1).square()
    count = squares.shape[1]
    while squares.shape[1] > 1:
        if squares.shape[1] % 2:
            squares = torch.nn.functional.pad(squares, (0, 1))
        squares = squares[:, ::2] + squares[:, 1::2]
    logs = 0.5 * (squares[:, 0] / count).log().cpu()
    return logs.nan_to_num(nan=_LARGEST, posinf=_LARGEST, neginf=-_LARGEST).clamp(-_LARGEST, _LARGEST)


_LARGEST = 50.0
