"""Labels: functions of the seed alone."""

import pytest
import scipy.stats
import torch

from pipeline.diffusion.labels import Balanced, Fixed, Labels, Uniform, Unlabelled
from tests.diffusion.parts import defaults, name

SEEDS = torch.tensor([0, 1, 7, 10, 12345678901, 2**63 - 1])


@pytest.mark.parametrize("policy", defaults(Labels), ids=name)
def test_a_label_is_a_function_of_the_seed_alone(policy):
    labels = policy.of(SEEDS, 10)
    assert labels.dtype == torch.int64
    for index, seed in enumerate(SEEDS):
        assert policy.of(seed[None], 10).tolist() == labels[index : index + 1].tolist()
    assert bool(((labels >= -1) & (labels < 10)).all())


def test_balanced_labels_go_round():
    assert Balanced().of(torch.arange(7), 3).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert Balanced().of(SEEDS, 10).tolist() == [seed % 10 for seed in SEEDS.tolist()]


def test_uniform_labels_are_uniform_and_do_not_follow_the_seed():
    labels = Uniform().of(torch.arange(10_000), 10)
    counts = labels.bincount(minlength=10)
    assert scipy.stats.chisquare(counts.numpy()).pvalue > 0.01
    assert (labels == torch.arange(10_000) % 10).double().mean().item() == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("policy", [Balanced(), Uniform(), Unlabelled()], ids=name)
def test_a_network_without_classes_gets_no_label(policy):
    assert policy.of(SEEDS, 0).tolist() == [-1] * 6


def test_fixed_and_no_labels():
    assert Fixed(label=4).of(SEEDS, 10).tolist() == [4] * 6
    assert Unlabelled().of(SEEDS, 10).tolist() == [-1] * 6


@pytest.mark.parametrize(
    "make", [lambda: Fixed(label=-1), lambda: Fixed(label=10).of(SEEDS, 10), lambda: Fixed().of(SEEDS, 0)]
)
def test_a_class_that_does_not_exist_is_refused(make):
    with pytest.raises(ValueError, match=r"^label: .*\(got "):
        make()
