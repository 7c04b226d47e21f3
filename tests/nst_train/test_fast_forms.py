"""The fast forms against PyTorch's own layers."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nst_train.fast_forms import FewChannelsConv, InstanceNorm, mirrored, self_product, use_fast_forms, written_out
from nst_train.transform_net import PRESETS, TransformNet, TransformNetConfig


def random(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype).contiguous(memory_format=torch.channels_last)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def relative(a: Tensor, b: Tensor) -> float:
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).norm() / b.norm())


def norm_and_gradients(module: nn.Module, x: Tensor, grad: Tensor) -> list[Tensor]:
    x = x.detach().requires_grad_()
    module.zero_grad()
    y = module(x)
    y.backward(grad)
    assert x.grad is not None
    return [y.detach(), x.grad, *(p.grad.clone() for p in module.parameters() if p.grad is not None)]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 1e-2)]
)
def test_instance_norm_is_pytorchs(dtype: torch.dtype, tolerance: float) -> None:
    ours, theirs = InstanceNorm(6, affine=True), nn.InstanceNorm2d(6, affine=True)
    for parameter in ours.parameters():
        nn.init.normal_(parameter)
    theirs.load_state_dict(ours.state_dict())
    x = random(3, 6, 11, 14, dtype=dtype) * 3 + 2
    grad = random(3, 6, 11, 14, dtype=dtype)
    kind = torch.float64 if dtype == torch.float64 else torch.float32
    results = norm_and_gradients(ours.to(kind), x, grad)
    truth = norm_and_gradients(theirs.double(), x.double(), grad.double())
    assert len(results) == 4
    assert results[0].is_contiguous(memory_format=torch.channels_last)
    assert [relative(a, b) < tolerance for a, b in zip(results, truth, strict=True)] == [True] * 4


def test_instance_norm_passes_gradcheck() -> None:
    norm = InstanceNorm(2, affine=True).double()
    x = random(2, 2, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(norm, x)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 1e-2)]
)
def test_instance_norm_written_out_is_pytorchs(dtype: torch.dtype, tolerance: float) -> None:
    x = random(3, 6, 11, 14, dtype=dtype) * 3 + 2
    weight, bias = torch.randn(2, 6, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    ours = written_out(x, weight, bias, 1e-5)
    assert ours.dtype == dtype
    theirs = F.instance_norm(x.double(), weight=weight.double(), bias=bias.double(), eps=1e-5)
    assert relative(ours, theirs) < tolerance


@pytest.mark.parametrize("size", [(12, 12), (12, 16), (13, 12), (11, 9)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("form", ["forward", "by_strides", "by_channels"])
@pytest.mark.parametrize(
    ("channels", "kernel", "padding"), [((4, 3), 5, 0), ((3, 7), 9, 0), ((3, 7), 3, 1), ((4, 3), 4, 0)]
)
def test_convolution_of_few_channels_is_pytorchs(
    size: tuple[int, int], bias: bool, form: str, channels: tuple[int, int], kernel: int, padding: int
) -> None:
    ours = FewChannelsConv(*channels, kernel, padding=padding, bias=bias).double()
    theirs = nn.Conv2d(*channels, kernel, padding=padding, bias=bias).double()
    theirs.load_state_dict(ours.state_dict())
    x = random(2, channels[0], *size)
    grad = random(2, channels[1], *(side + 2 * padding - kernel + 1 for side in size))
    truth = norm_and_gradients(theirs, x, grad)
    ours.forward = getattr(ours, form)  # type: ignore[method-assign]
    for a, b in zip(norm_and_gradients(ours, x, grad), truth, strict=True):
        assert relative(a, b) < 1e-12


@pytest.mark.parametrize("width", [1, 4])
def test_mirrored_is_pytorchs_reflection(width: int) -> None:
    x = random(2, 3, 6, 9).requires_grad_()
    ours, theirs = mirrored(x, width), F.pad(x, (width,) * 4, mode="reflect")
    assert torch.equal(ours, theirs)
    grad = random(*ours.shape)
    gradients = [torch.autograd.grad(padded, x, grad, retain_graph=True)[0] for padded in (ours, theirs)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 1e-2)]
)
def test_self_product_is_the_matrix_product(dtype: torch.dtype, tolerance: float) -> None:
    psi = torch.rand(2, 50, 5, dtype=dtype, requires_grad=True)
    grad = torch.randn(2, 5, 5, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    product = self_product(psi)
    assert product.dtype == grad.dtype
    product.backward(grad)
    exact = psi.detach().double().requires_grad_()
    (exact.mT @ exact).backward(grad.double())
    assert psi.grad is not None
    assert exact.grad is not None
    assert relative(product, exact.mT @ exact) < tolerance
    assert relative(psi.grad, exact.grad) < tolerance


@pytest.mark.parametrize(
    "config", [PRESETS["half"], TransformNetConfig((4, 6, 8), 1, "same", "transpose", final_norm=True)]
)
@pytest.mark.parametrize("size", [(24, 32), (23, 18)])
def test_a_whole_net_stays_the_same_function(config: TransformNetConfig, size: tuple[int, int]) -> None:
    net = TransformNet(config).double()
    fast = TransformNet(config).double()
    fast.load_state_dict(net.state_dict())
    use_fast_forms(fast)
    assert fast.state_dict().keys() == net.state_dict().keys()
    assert sum(isinstance(module, InstanceNorm) for module in fast.modules()) > 3
    assert any(isinstance(module, FewChannelsConv) for module in fast.modules())
    image = random(2, 3, *size) * 60 + 120
    results = []
    for each, layout in ((net, torch.contiguous_format), (fast, torch.channels_last)):
        styled = each(image.contiguous(memory_format=layout))
        gradient = torch.autograd.grad(F.mse_loss(styled, image), list(each.parameters()))
        results.append([styled.detach(), *gradient])
    for plain, quick in zip(*results, strict=True):
        assert torch.allclose(plain, quick, rtol=1e-9, atol=1e-9)
