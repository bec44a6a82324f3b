"""A figure: the loss of a network by noise level. Numbers in, PNG bytes out."""

import io
from collections.abc import Sequence


def loss_against_noise(
    sigmas: Sequence[float], losses: Sequence[float], errors: Sequence[float], title: str, p_mean: float, p_std: float
) -> bytes:
    """The loss with two standard errors, above the density that training noise of P_mean and P_std has.

    Returns:
        A PNG.
    """
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    grid = np.geomspace(min(sigmas), max(sigmas), 200)
    density = np.exp(-np.square((np.log(grid) - p_mean) / p_std) / 2)
    label = f"p_train of P_mean {p_mean:.2f}, P_std {p_std:.2f}"
    axes.fill_between(grid, density * max(losses), color="#d9d9d9", lw=0, label=f"{label} (no scale)")
    axes.errorbar(sigmas, losses, yerr=2 * np.asarray(errors), color="#0072B2", marker="o", capsize=2.5, lw=1.8,
                  label="loss, two standard errors")  # fmt: skip
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("noise level sigma")
    axes.set_ylabel("loss a pixel, EDM's weighting")
    axes.set_title(title, loc="left", fontweight="bold", fontsize=11, parse_math=False)
    axes.grid(True, color="#d9d9d9", lw=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()
