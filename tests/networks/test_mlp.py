"""The MLP: that it learns, and what must hold for any network here."""

import pytest
import torch

from pipeline.networks import MLP

GOLDEN = [
    *(3.8558018388613355, -8.031269345106267, -12.622582086677522, -3.667687415701021),
    *(7.097024654557822, -4.72008492142479, -12.47511232368101, -6.8279501063996335),
    *(5.510188403809979, -6.794967654800446, -13.011727630014024, -5.302243762348125),
]


def test_it_learns_a_function_of_image_noise_level_and_label_at_once() -> None:
    torch.manual_seed(0)
    net = MLP(hidden=32).build(2, 1, 3)
    x, c_noise, labels = torch.randn(256, 1, 2, 2), torch.rand(256) * 2 - 1, torch.randint(-1, 3, (256,))
    target = x.flip(3) * c_noise[:, None, None, None] + labels[:, None, None, None] / 2
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(300):
        loss = (net(x, c_noise, labels) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert target.var() > 0.5
    assert loss < 0.02


def test_every_input_changes_its_own_sample_only() -> None:
    torch.manual_seed(0)
    net = MLP().build(4, 3, 5)
    x, c_noise, labels = torch.randn(3, 3, 4, 4), torch.zeros(3), torch.tensor([0, 1, -1])
    out = net(x, c_noise, labels)
    assert out.shape == x.shape
    changed = net(x + torch.eye(3)[0][:, None, None, None], c_noise + torch.eye(3)[1], torch.tensor([0, 1, 4]))
    assert ((changed - out).abs().amax((1, 2, 3)) > 1e-3).all()
    torch.testing.assert_close(net(x, c_noise, torch.tensor([0, 1, 4]))[:2], out[:2])


def test_no_label_is_minus_one_and_a_network_without_classes_ignores_labels() -> None:
    torch.manual_seed(0)
    x, c_noise = torch.randn(3, 1, 4, 4), torch.zeros(3)
    conditional, unconditional = MLP().build(4, 1, 5), MLP().build(4, 1, 0)
    assert torch.equal(conditional(x, c_noise), conditional(x, c_noise, torch.full((3,), -1)))
    assert torch.equal(unconditional(x, c_noise), unconditional(x, c_noise, torch.tensor([0, 1, 2])))


def test_the_output_of_a_fixed_network_does_not_change_without_a_new_revision() -> None:
    assert MLP.revision == 1
    net = MLP(hidden=8, num_layers=1).build(2, 1, 3).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.sin(torch.arange(p.numel(), dtype=torch.float64) * 1.7 + p.dim()).reshape(p.shape))
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 1, 2, 2)
    out = net(x, torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0, 2, -1]))
    assert out.flatten().tolist() == pytest.approx(GOLDEN, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_it_runs_in_the_type_of_its_parameters(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net = MLP().build(4, 1, 5)
    x, c_noise, labels = torch.randn(3, 1, 4, 4), torch.tensor([-1.0, 0.0, 500.0]), torch.tensor([0, 1, -1])
    expected = net(x, c_noise, labels)
    out = net.to(dtype)(x, c_noise, labels)
    assert out.dtype == dtype
    assert (out.float() - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"hidden": 7}, "hidden: must be even and at least 4 (got 7)"),
        ({"num_layers": -1}, "num_layers: must be at least 0 (got -1)"),
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, int], problem: str) -> None:
    with pytest.raises(ValueError) as error:
        MLP(**values)  # type: ignore[arg-type]
    assert str(error.value) == problem


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"channels: must be at least 1 \(got 0\)"):
        MLP().build(4, 0, 0)
