"""Group norm in the form that compilers like: the same function as torch's, in every type, with the same gradients."""

import pytest
import torch
from torch import nn

from pipeline.networks import DDPMpp, DiffusersUNet2D
from pipeline.networks.flat_norm import FlatGroupNorm, flatten_norms
from pipeline.networks.layers import group_norm


def pair(num_channels: int, dtype: torch.dtype = torch.float64) -> tuple[nn.GroupNorm, nn.GroupNorm]:
    """torch's norm and ours with the same weights, of which none is at its start."""
    torch.manual_seed(0)
    plain, flat = group_norm(num_channels), group_norm(num_channels)
    for parameter in plain.parameters():
        nn.init.normal_(parameter, mean=1.0)
    flat.load_state_dict(plain.state_dict())
    flatten_norms(flat)
    assert type(flat) is FlatGroupNorm
    return plain.to(dtype), flat.to(dtype)


@pytest.mark.parametrize("num_channels", [4, 12, 64, 256])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_is_group_norm_and_so_are_its_gradients(num_channels: int, layout: torch.memory_format) -> None:
    plain, flat = pair(num_channels)
    # A mean far above the deviation, where a difference of squares would lose its digits.
    x = (torch.randn(3, num_channels, 4, 6, dtype=torch.float64) + 50).contiguous(memory_format=layout)
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    torch.testing.assert_close(flat(other), plain(one), rtol=1e-9, atol=1e-9)
    weight = torch.randn_like(x)
    (plain(one) * weight).sum().backward()
    (flat(other) * weight).sum().backward()
    torch.testing.assert_close(other.grad, one.grad, rtol=1e-8, atol=1e-8)
    for mine, theirs in zip(flat.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-8, atol=1e-8)


def test_statistics_of_half_precision_are_float32() -> None:
    _, flat = pair(32, torch.bfloat16)
    x = (torch.randn(2, 32, 16, 16) * 3 + 20).to(torch.bfloat16)
    exact = nn.functional.group_norm(x.double(), 8, flat.weight.double(), flat.bias.double(), flat.eps)
    out = flat(x)
    assert out.dtype == torch.bfloat16
    assert ((out.double() - exact).abs() <= 2**-7 * exact.abs() + 2e-2).all()


@pytest.mark.parametrize(
    "network",
    [
        DDPMpp(model_channels=8, channel_mult=(1, 2), num_blocks=1, attn_resolutions=(8,)),
        DiffusersUNet2D(
            block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        ),
    ],
)  # fmt: skip
def test_a_network_keeps_its_parameters_and_its_answers(network: DDPMpp | DiffusersUNet2D) -> None:
    torch.manual_seed(1)
    net = network.build(16, 3, 0).eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)
    x, c_noise = torch.randn(2, 3, 16, 16), torch.tensor([-1.0, 0.5])
    before, names = net(x, c_noise).detach(), list(net.state_dict())
    flatten_norms(net)
    assert any(isinstance(module, FlatGroupNorm) for module in net.modules())
    assert list(net.state_dict()) == names
    torch.testing.assert_close(net(x, c_noise), before, rtol=1e-4, atol=1e-4)
