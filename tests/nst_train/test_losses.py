import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from nst_train.losses import content_loss, gram_matrix, style_loss, total_variation


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_content_loss_is_johnsons_equation_2() -> None:
    output, target = random(2, 3, 4, 5), random(2, 3, 4, 5, seed=1)
    per_picture = []
    for n in range(2):
        total = 0.0
        for c in range(3):
            for i in range(4):
                for j in range(5):
                    total += (float(output[n, c, i, j]) - float(target[n, c, i, j])) ** 2
        per_picture.append(total / (3 * 4 * 5))
    wanted = torch.tensor(per_picture, dtype=torch.float64)
    torch.testing.assert_close(content_loss(output, target, reduction="none"), wanted)
    torch.testing.assert_close(content_loss(output, target), wanted.mean())


def test_gram_matrix_is_johnsons_equation_3() -> None:
    features = random(2, 3, 4, 5)
    wanted = torch.zeros(2, 3, 3, dtype=torch.float64)
    for n in range(2):
        for a in range(3):
            for b in range(3):
                products = [float(features[n, a, i, j] * features[n, b, i, j]) for i in range(4) for j in range(5)]
                wanted[n, a, b] = math.fsum(products) / (3 * 4 * 5)
    torch.testing.assert_close(gram_matrix(features), wanted)
    channels_last = features.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(gram_matrix(channels_last), wanted)


def test_style_loss_is_johnsons_equation_4() -> None:
    output, target = random(2, 3, 3), random(1, 3, 3, seed=1)
    wanted = torch.stack([torch.linalg.matrix_norm(output[n] - target[0]) ** 2 for n in range(2)])
    torch.testing.assert_close(style_loss(output, target, reduction="none"), wanted)
    torch.testing.assert_close(style_loss(output, target), wanted.mean())


def test_style_of_any_two_sizes() -> None:
    small = random(1, 3, 4, 5)
    tiled = small.repeat(1, 1, 3, 2)  # the same statistics on six times the area
    torch.testing.assert_close(gram_matrix(tiled), gram_matrix(small))
    output, target = random(2, 3, 9, 7), random(1, 3, 4, 11, seed=1)
    grams = [torch.einsum("nchw,ndhw->ncd", x, x) / x[0].numel() for x in (output, target)]
    wanted = (grams[0] - grams[1]).square().sum(dim=(1, 2)).mean()
    torch.testing.assert_close(style_loss(gram_matrix(output), gram_matrix(target)), wanted)


def test_total_variation_by_hand() -> None:
    image = torch.tensor([[[[1.0, 4.0, 6.0], [1.0, 0.0, 6.0]]]], dtype=torch.float64)
    # down: 0, 16, 0; right: 9, 4, 1, 36
    torch.testing.assert_close(total_variation(image), torch.tensor(16 / 3 + 50 / 4, dtype=torch.float64))
    assert total_variation(image.new_zeros(2, 3, 1, 1), reduction="none").tolist() == [0.0, 0.0]
    assert total_variation(image[..., :1, :]) == (9 + 4) / 2


def test_total_variation_is_the_same_at_every_size() -> None:
    ramp = torch.arange(40, dtype=torch.float64).expand(1, 3, 40, 40)
    assert total_variation(ramp) == total_variation(ramp[..., :10, :10]) == 1.0


@pytest.mark.parametrize("loss", [content_loss, style_loss, total_variation])
def test_halves_of_a_batch_average_to_the_whole(loss: object) -> None:
    x, y = random(4, 3, 3), random(4, 3, 3, seed=1)
    if loss is not style_loss:
        x, y = x[:, None], y[:, None]
    arguments = (x,) if loss is total_variation else (x, y)
    halves = [loss(*(part[half] for part in arguments)) for half in (slice(0, 2), slice(2, 4))]  # type: ignore[operator]
    torch.testing.assert_close((halves[0] + halves[1]) / 2, loss(*arguments))  # type: ignore[operator]


def test_gradients() -> None:
    features, other = random(2, 3, 3, 4).requires_grad_(), random(2, 3, 3, 4, seed=1)
    gram = random(1, 3, 3, seed=2)
    assert gradcheck(lambda x: content_loss(x, other), features)
    assert gradcheck(gram_matrix, features)
    assert gradcheck(lambda x: style_loss(gram_matrix(x), gram), features)
    assert gradcheck(total_variation, features)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_stay_in_float32_under_autocast(dtype: torch.dtype) -> None:
    # 4096 equal products: summed in bfloat16 the total would stop growing at 256 times the summand.
    features = torch.full((1, 2, 64, 64), 3.0)
    with torch.autocast("cpu", torch.bfloat16):
        gram = gram_matrix(features.to(dtype))
        content = content_loss(features.to(dtype), torch.zeros_like(features, dtype=dtype))
        variation = total_variation(features.to(dtype))
        style = style_loss(gram, torch.zeros_like(gram))
    assert gram.dtype == content.dtype == variation.dtype == style.dtype == torch.float32
    torch.testing.assert_close(gram, torch.full((1, 2, 2), 4.5))
    assert content == 9.0
