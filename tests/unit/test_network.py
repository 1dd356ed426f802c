"""The network: each equation against a naive loop, symmetry, gradients, sizes, the tricks that make it fast."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from autopoly.config import NetworkConfig
from autopoly.errors import CheckpointError
from autopoly.network import checkpoint
from autopoly.network.backbone import Backbone, fold_batch_norm
from autopoly.network.convolution import FastConv2d, use_fast_convolutions
from autopoly.network.correlation import pixelwise_correlation, target_features
from autopoly.network.fusion import _double
from autopoly.network.head import STRIP, CircularConv, sample, vertex_features
from autopoly.network.siamanno import SiamAnno, box_contour

SMALL = NetworkConfig(width16=48, blocks16=1, width8=16, width4=16, head_width=16, vertices=32)


@pytest.fixture(scope="module")
def network() -> SiamAnno:
    torch.manual_seed(0)
    return SiamAnno(SMALL).eval()


def test_correlation_is_one_dot_product_per_target_pixel_and_place() -> None:
    generator = torch.Generator().manual_seed(1)
    target, search = torch.randn(2, 5, 3, 2, generator=generator), torch.randn(2, 5, 4, 6, generator=generator)
    maps = pixelwise_correlation(target, search)
    for b in range(2):
        for i in range(3):
            for j in range(2):
                for y in range(4):
                    for x in range(6):
                        naive = sum(float(target[b, c, i, j] * search[b, c, y, x]) for c in range(5)) / math.sqrt(5)
                        assert float(maps[b, i * 2 + j, y, x]) == pytest.approx(naive, abs=1e-5)


@pytest.mark.parametrize("side", [10, 14, 18])
def test_target_is_the_central_part_on_a_grid_of_fixed_size(side: int) -> None:
    # A linear ramp is reproduced exactly by bilinear sampling: the grid's cell centres can be read off.
    scale, grid = 1.4, 5
    ramp = (torch.arange(side, dtype=torch.float32) + 0.5) / side
    search = torch.stack([ramp.expand(side, side), ramp.view(-1, 1).expand(side, side)])[None]
    target = target_features(search, scale, grid)
    centres = 0.5 + ((np.arange(grid) + 0.5) / grid - 0.5) / scale
    np.testing.assert_allclose(target[0, 0, 2].numpy(), centres, atol=1e-6)
    np.testing.assert_allclose(target[0, 1, :, 2].numpy(), centres, atol=1e-6)


def test_fusion_step_is_interpolate_add_convolve_rectify() -> None:
    torch.manual_seed(2)
    coarse, lateral = torch.randn(1, 3, 4, 4), torch.randn(1, 3, 8, 8)
    convolution = nn.Conv2d(3, 3, 3, padding=1)
    fused = _double(coarse, lateral, nn.ModuleList([convolution])).detach()
    y, x, channel = 3, 5, 1
    up = np.zeros((3, 8, 8))
    for i in range(8):
        for j in range(8):
            v, u = np.clip((i + 0.5) / 2 - 0.5, 0, 3), np.clip((j + 0.5) / 2 - 0.5, 0, 3)
            a, b = int(v), int(u)
            c, d = min(a + 1, 3), min(b + 1, 3)
            g = coarse[0].numpy()
            up[:, i, j] = (1 - (v - a)) * ((1 - (u - b)) * g[:, a, b] + (u - b) * g[:, a, d]) + (v - a) * (
                (1 - (u - b)) * g[:, c, b] + (u - b) * g[:, c, d]
            )
    added = np.maximum(up + lateral[0].numpy(), 0)
    weight, bias = convolution.weight.detach().numpy(), convolution.bias.detach().numpy()  # type: ignore[union-attr]
    value = bias[channel] + sum(
        weight[channel, c, dy, dx] * added[c, y + dy - 1, x + dx - 1] for c in range(3) for dy in range(3) for dx in range(3)
    )
    assert float(fused[0, channel, y, x]) == pytest.approx(max(value, 0.0), abs=1e-4)


@pytest.mark.parametrize(("radius", "dilation"), [(1, 1), (4, 1), (2, 3), (4, 4)])
def test_circular_convolution_wraps_round(radius: int, dilation: int) -> None:
    torch.manual_seed(3)
    layer = CircularConv(2, 3, radius, dilation)
    features = torch.randn(1, 2, 1, 40)
    out = layer(features).detach()
    kernel, bias = layer.conv.weight.detach(), layer.conv.bias
    assert bias is not None
    for p in (0, 1, 17, 39):
        for o in range(3):
            naive = float(bias[o].detach()) + sum(
                float(features[0, c, 0, (p + dilation * r) % 40] * kernel[o, c, 0, r + radius])
                for c in range(2)
                for r in range(-radius, radius + 1)
            )
            assert float(out[0, o, 0, p]) == pytest.approx(naive, abs=1e-5)
    rolled = layer(torch.roll(features, 7, dims=-1)).detach()
    torch.testing.assert_close(rolled, torch.roll(out, 7, dims=-1))


def test_vertex_coordinates_do_not_feel_shift_or_scale() -> None:
    torch.manual_seed(4)
    contour = torch.rand(1, 32, 2) * 0.3 + 0.2
    fused, hints, held = torch.zeros(1, 4, 8, 8), torch.zeros(1, 2, 8, 8), torch.zeros(1, 32, dtype=torch.bool)
    first = vertex_features(fused, hints, contour, held, torch.tensor(STRIP))
    second = vertex_features(fused, hints, contour * torch.tensor([1.7, 0.6]) + 0.1, held, torch.tensor(STRIP))
    torch.testing.assert_close(first, second)
    relative = first[0, -3:-1, 0]
    assert float(relative.min()) == pytest.approx(-0.5)
    assert float(relative.max()) == pytest.approx(0.5)


def test_whole_head_commutes_with_rolling_the_contour(network: SiamAnno) -> None:
    torch.manual_seed(5)
    crops = torch.randint(0, 255, (2, 3, 96, 96), dtype=torch.uint8)
    initial = box_contour(96, SMALL.search_scale, SMALL.vertices, 2)
    with torch.no_grad():
        out = network(crops, initial).contours[-1]
        rolled = network(crops, torch.roll(initial, 5, dims=1)).contours[-1]
    torch.testing.assert_close(rolled, torch.roll(out, 5, dims=1), atol=1e-3, rtol=0)


def test_every_parameter_gets_a_gradient(network: SiamAnno) -> None:
    torch.manual_seed(6)
    output = network(torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8), box_contour(64, SMALL.search_scale, SMALL.vertices, 2))
    loss = torch.stack([c.square().mean() for c in output.contours]).sum() + output.mask_logits.square().mean()
    (loss + output.boundary_logits.square().mean() + output.quality_logits.square().mean()).backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    network.zero_grad()
    assert without == []


@pytest.mark.parametrize("side", [160, 224, 288])
def test_same_weights_run_at_every_crop_side(network: SiamAnno, side: int) -> None:
    with torch.no_grad():
        output = network(torch.zeros(1, 3, side, side, dtype=torch.uint8), box_contour(side, SMALL.search_scale, SMALL.vertices))
    assert [tuple(c.shape) for c in output.contours] == [(1, SMALL.vertices, 2)] * 3
    assert output.mask_logits.shape == (1, 1, side // 2, side // 2)
    assert output.quality_logits.shape == (1, 2)


def test_held_vertices_stay_and_the_others_move(network: SiamAnno) -> None:
    torch.manual_seed(7)
    initial = box_contour(96, SMALL.search_scale, SMALL.vertices, 1).clone()
    held = torch.zeros(1, SMALL.vertices, dtype=torch.bool)
    held[0, [3, 20]] = True
    initial[0, 3] += 4
    with torch.no_grad():
        out = network(torch.randint(0, 255, (1, 3, 96, 96), dtype=torch.uint8), initial, held).contours[-1]
    torch.testing.assert_close(out[held], initial[held])
    assert bool(((out - initial).abs().sum(-1)[~held] > 0).all())


def test_box_contour_is_the_geometry_of_the_data_side() -> None:
    from autopoly.geometry.contours import box_contour as in_image

    half = 224 / 2.8
    expected = in_image(np.array([112 - half, 112 - half, 112 + half, 112 + half]), 128)
    np.testing.assert_allclose(box_contour(224, 1.4, 128)[0].numpy(), expected, atol=1e-4)


def test_sampling_reads_cell_centres() -> None:
    maps = torch.arange(16, dtype=torch.float32).view(1, 1, 4, 4)
    read = sample(maps, torch.tensor([[[0.125, 0.125], [0.875, 0.125], [0.5, 0.5]]]))
    torch.testing.assert_close(read, torch.tensor([[[0.0, 3.0, 7.5]]]))


def test_folding_batch_norm_changes_nothing() -> None:
    torch.manual_seed(8)
    net = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4))
    for module in net:
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
            module.running_mean = torch.randn_like(module.bias)
            module.running_var = torch.rand_like(module.bias) + 0.2
    net.eval()
    crops = torch.randn(2, 3, 9, 9)
    before = net(crops)
    fold_batch_norm(net)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    torch.testing.assert_close(net(crops), before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [8, 9])
@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("relu6", [False, True])
@pytest.mark.parametrize(("groups", "frozen"), [(1, False), (1, True), (4, False), (4, True)])
def test_fast_convolution_is_the_plain_one(kernel: int, stride: int, side: int, same: bool, relu6: bool, groups: int, frozen: bool) -> None:
    torch.manual_seed(9)
    layer = FastConv2d(4, 4, kernel, stride, kernel // 2, groups=groups)
    layer.same, layer.relu6 = same, relu6
    layer.requires_grad_(not frozen)
    inputs = [torch.randn(2, 4, side, side, requires_grad=True)]
    inputs.append(inputs[0].detach().clone().requires_grad_())
    fast = layer(inputs[0])
    fast.square().sum().backward()
    learned = [parameter.grad for parameter in layer.parameters()]
    layer.zero_grad()
    low = max((-(-side // stride) - 1) * stride + kernel - side, 0) if same else 0
    padded = nn.functional.pad(inputs[1], (low // 2, low - low // 2) * 2) if same else inputs[1]
    plain = nn.functional.conv2d(padded, layer.weight, layer.bias, stride, 0 if same else kernel // 2, 1, groups)
    plain = nn.functional.relu6(plain) if relu6 else plain
    plain.square().sum().backward()
    torch.testing.assert_close(fast, plain)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    for one, parameter in zip(learned, layer.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad)


def test_fast_convolutions_take_the_relu6_behind_them_and_share_parameters() -> None:
    torch.manual_seed(9)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU6(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 2, 1))
    crops, names = torch.randn(2, 3, 16, 16) * 9, [name for name, _ in net.named_parameters()]
    before = net(crops)
    use_fast_convolutions(net)
    assert [name for name, _ in net.named_parameters()] == names
    assert [module.relu6 for module in net if isinstance(module, FastConv2d)] == [True, False, False]
    torch.testing.assert_close(net(crops), before)


class Standardised(nn.Conv2d):
    """A convolution that changes its weights as it is used, as timm has several."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(input, (self.weight - self.weight.mean()) / self.weight.std(), self.bias)


def test_a_convolution_of_another_kind_stays_what_it_is() -> None:
    torch.manual_seed(9)
    net = nn.Sequential(Standardised(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 2, 1)).eval()
    net[1].running_mean = torch.randn(8)
    crops = torch.randn(2, 3, 16, 16) * 9
    before = net(crops)
    fold_batch_norm(net)
    use_fast_convolutions(net)
    torch.testing.assert_close(net(crops), before)


def test_a_batch_norm_that_stays_keeps_the_statistics_of_imagenet() -> None:
    backbone = Backbone("resnet26d").train()  # one of its BatchNorms is behind no convolution of its own block
    left = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [module.running_mean.clone() for module in left]
    backbone(backbone.normalize(torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8)))
    assert left and backbone.body.training
    assert all(torch.equal(module.running_mean, mean) for module, mean in zip(left, before, strict=True))


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18", "resnet34", "resnet50"])
def test_every_offered_backbone_gives_the_pyramid(name: str) -> None:
    backbone = Backbone(name)
    with torch.no_grad():
        pyramid = backbone(backbone.normalize(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)))
    assert [tuple(f.shape[1:]) for f in pyramid] == [(c, 64 // s, 64 // s) for c, s in zip(backbone.channels, (4, 8, 16, 32), strict=True)]


def test_packaged_weights_know_a_cat() -> None:
    # The pyramid of ImageNet weights answers to content: a cat's head is nearer to itself shifted than to coins.
    from skimage import data

    backbone = Backbone("tf_efficientnet_lite0", pretrained=True).eval()
    cat = data.chelsea()[20:276, 100:356]
    moved, coins = data.chelsea()[28:284, 92:348], np.repeat(data.coins()[20:276, 60:316, None], 3, axis=2)
    with torch.no_grad():
        batch = torch.from_numpy(np.stack([cat, moved, coins])).permute(0, 3, 1, 2)
        deep = torch.nn.functional.normalize(backbone(backbone.normalize(batch))[3].mean((2, 3)), dim=1)
    assert float(deep[0] @ deep[1]) > float(deep[0] @ deep[2]) + 0.1


def test_unknown_backbone_is_one_line() -> None:
    with pytest.raises(CheckpointError, match="'nonsense' is known neither to timm nor here"):
        Backbone("nonsense")


def test_checkpoint_comes_back_as_it_was(network: SiamAnno, tmp_path) -> None:
    checkpoint.save(network, tmp_path / "c", {"data": "none"})
    again = checkpoint.load_network(tmp_path / "c")
    assert again.config == SMALL
    for (name, a), b in zip(network.state_dict().items(), again.state_dict().values(), strict=True):
        torch.testing.assert_close(a.half().float(), b, msg=name)
    assert len(checkpoint.fingerprint(tmp_path / "c")) == 16


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.json", b"{", "not a checkpoint's description"),
        ("config.json", b'{"format": 9, "network": {}}', "format 9"),
        ("config.json", b'{"format": 2, "network": {"nonsense": 1}}', "not a checkpoint's description"),
        ("weights.safetensors", b"garbage", "does not fit"),
        ("weights.safetensors", b"", "does not fit"),
    ],
)
def test_damaged_checkpoint_is_one_line(network: SiamAnno, tmp_path, name: str, content: bytes, said: str) -> None:
    checkpoint.save(network, tmp_path / "c", {})
    (tmp_path / "c" / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=said) as caught:
        checkpoint.load_network(tmp_path / "c")
    assert "\n" not in str(caught.value)


def test_missing_checkpoint_names_what_was_looked_for() -> None:
    with pytest.raises(CheckpointError, match=r"no folder with config\.json and weights"):
        checkpoint.resolve("no-such-checkpoint")


def test_in_bf16_the_backbone_and_the_head_answer_in_float32_and_learn_in_bf16(network: SiamAnno) -> None:
    crops, initial = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8), box_contour(64, 1.4, 32)
    seen: list[torch.dtype] = []
    hooks = [
        network.backbone.register_forward_hook(lambda module, given, found: seen.append(found[-1].dtype)),
        network.head.modulate.register_forward_hook(lambda module, given, found: seen.append(found.dtype)),
        network.boundary.register_forward_hook(lambda module, given, found: seen.append(found.dtype)),
    ]
    try:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            network(crops, initial)
            network.train()(crops, initial)
    finally:
        network.eval()
        for hook in hooks:
            hook.remove()
    float32, bf16 = torch.float32, torch.bfloat16
    assert seen == [float32, bf16, float32, bf16, bf16, bf16]
