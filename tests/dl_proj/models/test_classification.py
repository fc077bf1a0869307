"""The classifier: patches to vectors, what is pooled, which gradients there are, and images that do not mix."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from dl_proj.experiments.images.classification.settings import ClassifierConfig
from dl_proj.experiments.images.classification.train import build_classifier
from dl_proj.experiments.images.settings import ClassifierDataConfig
from dl_proj.models.classification import PatchEmbedding

ATTENTION = {
    "full": {"kind": "full"},
    "shared_qk": {"kind": "shared_qk"},
    "lsh": {"kind": "lsh", "bucket_size": 4, "n_rounds": 2},
    "lsh, chunks": {"kind": "lsh", "bucket_size": 4, "n_rounds": 2, "rule": "chunk", "window": 4},
    "performer": {"kind": "performer", "n_features": 8},
    "relative": {"kind": "relative", "n_features": 8, "n_scales": 2},
    "clipped_relative": {"kind": "clipped_relative", "n_features": 8, "distance": 2},
    "linformer": {"kind": "linformer", "rank": 5, "sharing": "layerwise"},
    "linformer, convolution": {"kind": "linformer", "rank": 4, "projection": "convolution"},
}
POOLING = ["mean", "class_token"]
DATA = ClassifierDataConfig(dataset="digits", vocab_size=17, patch_size=2)
PIXELS = ClassifierDataConfig(dataset="digits", vocab_size=17, patch_size=1)


def model(attention, pooling="mean", data=DATA, **changes):
    """With weights large enough that what it says depends on all of the image, in float64 and eval mode."""
    torch.manual_seed(0)
    config = ClassifierConfig.model_validate(
        {"dim": 12, "heads": 2, "depth": 2, "ffn_dim": 20, "pooling": pooling, "attention": ATTENTION[attention]}
        | changes
    )
    built = build_classifier(config, data, n_classes=5, seed=1).double().eval()
    for name, parameter in built.named_parameters():
        if "norm" not in name:
            nn.init.normal_(parameter, std=0.6)
    return built


def some_images(n, channels=1, side=8):
    return torch.randint(17, (n, channels, side, side), generator=torch.Generator().manual_seed(5)).to(torch.uint8)


def naive_tokens(image, size, stride, split_channels):
    """The values of each token, (c, y, x) in this order; patches row by row, of split channels the first before all."""
    channels, height, width = image.shape
    groups = [[c] for c in range(channels)] if split_channels else [range(channels)]
    return [
        [int(image[c, top + y, left + x]) for c in group for y in range(size) for x in range(size)]
        for group in groups
        for top in range(0, height - size + 1, stride)
        for left in range(0, width - size + 1, stride)
    ]


@pytest.mark.parametrize("split_channels", [False, True])
@pytest.mark.parametrize(("size", "stride"), [(1, None), (2, None), (4, None), (4, 2), (3, 1)])
@pytest.mark.parametrize("vocab_size", [17, 256])
def test_a_linear_embedding_maps_levels_between_minus_one_and_one(size, stride, split_channels, vocab_size):
    embed = PatchEmbedding(
        dim=7,
        values=size**2 * (1 if split_channels else 3),
        vocab_size=vocab_size,
        patch_size=size,
        patch_stride=stride,
        split_channels=split_channels,
    ).double()
    images = some_images(2, channels=3)
    images[0, 0, 0, 0], images[0, 0, 0, 1] = 0, vocab_size - 1
    weight, bias = embed.embed.weight.detach().numpy(), embed.embed.bias.detach().numpy()
    for image, found in zip(images.numpy(), embed(images).detach().numpy(), strict=True):
        tokens = naive_tokens(image, size, stride or size, split_channels)
        expected = [weight @ (2 * np.array(token) / (vocab_size - 1) - 1) + bias for token in tokens]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("size", "stride", "split_channels"), [(1, None, False), (2, None, True), (4, 2, False)])
def test_an_mlp_maps_them_twice_with_a_gelu_between(size, stride, split_channels):
    embed = PatchEmbedding(
        dim=7,
        values=size**2 * (1 if split_channels else 3),
        vocab_size=17,
        kind="mlp",
        patch_size=size,
        patch_stride=stride,
        split_channels=split_channels,
    ).double()
    images = some_images(2, channels=3)
    hidden = embed.hidden[0]
    nn.init.normal_(hidden.bias)
    nn.init.normal_(embed.embed.bias)
    assert (hidden.out_features, embed.embed.in_features, embed.embed.out_features) == (7, 7, 7)
    w1, b1, w2, b2 = (p.tolist() for p in (hidden.weight, hidden.bias, embed.embed.weight, embed.embed.bias))
    for image, found in zip(images.numpy(), embed(images).detach().numpy(), strict=True):
        for token, vector in zip(naive_tokens(image, size, stride or size, split_channels), found, strict=True):
            values = [2 * level / 16 - 1 for level in token]
            inner = [sum(w * x for w, x in zip(row, values, strict=True)) + b for row, b in zip(w1, b1, strict=True)]
            inner = [x * (1 + math.erf(x / math.sqrt(2))) / 2 for x in inner]
            outer = [sum(w * x for w, x in zip(row, inner, strict=True)) + b for row, b in zip(w2, b2, strict=True)]
            np.testing.assert_allclose(vector, outer, rtol=0, atol=1e-12)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_lookup_is_a_row_of_its_table(channels):
    embed = PatchEmbedding(
        dim=7, values=1, vocab_size=17, kind="lookup", patch_size=1, split_channels=channels > 1
    ).double()
    images = some_images(2, channels)
    table = embed.embed.weight
    assert table.shape == (17, 7)
    for image, found in zip(images, embed(images), strict=True):
        rows = [table[level] for (level,) in naive_tokens(image, 1, 1, split_channels=True)]
        assert torch.equal(found, torch.stack(rows))


@pytest.mark.parametrize("kind", ["linear", "mlp", "lookup"])
def test_an_embedding_starts_as_small_as_positions(kind):
    embed = PatchEmbedding(dim=200, values=1, vocab_size=17, kind=kind).embed
    assert embed.weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert kind == "lookup" or not embed.bias.any()


def test_a_lookup_refuses_patches_of_more_values():
    with pytest.raises(ValueError, match=r"patches of one value \(got 3\)"):
        PatchEmbedding(dim=7, values=3, vocab_size=17, kind="lookup")


@pytest.mark.parametrize("embedding", ["linear", "mlp", "lookup"])
def test_bytes_are_levels_like_any_other_integers(embedding):
    built = model("full", data=PIXELS, embedding=embedding)
    images = some_images(2)
    assert torch.equal(built(images), built(images.long()))
    assert torch.equal(built(images), built(images.double()))


@pytest.mark.parametrize("attention", ATTENTION)
def test_the_mean_of_all_outputs_is_classified(attention):
    built = model(attention, "mean")
    images = some_images(3)
    outputs = built.stack(built.embedding(images) + built.positions.weight)
    assert outputs.shape[1] == built.positions.max_len == 16
    mean = sum(outputs[:, i] for i in range(16)) / 16
    torch.testing.assert_close(built(images), mean @ built.to_logits.weight.T + built.to_logits.bias)


@pytest.mark.parametrize("attention", ATTENTION)
def test_the_output_of_a_token_put_before_all_patches_is_classified(attention):
    built = model(attention, "class_token")
    images = some_images(3)
    assert built.positions.max_len == 17
    x = torch.stack([torch.cat((built.class_token[None], patches)) for patches in built.embedding(images)])
    first = built.stack(x + built.positions.weight)[:, 0]
    torch.testing.assert_close(built(images), first @ built.to_logits.weight.T + built.to_logits.bias)


@pytest.mark.parametrize("attention", ATTENTION)
def test_every_patch_counts(attention):
    built = model(attention)
    image = some_images(1)
    for top in range(0, 8, 2):
        for left in range(0, 8, 2):
            other = image.clone()
            other[..., top, left] = 16 - other[..., top, left] + (other[..., top, left] == 8)
            assert (built(image) - built(other)).abs().max() > 1e-6, (top, left)


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("pooling", POOLING)
@pytest.mark.parametrize("reversible", [False, True])
def test_an_image_does_not_depend_on_those_beside_it(attention, pooling, reversible):
    built = model(attention, pooling, reversible=reversible)
    images = some_images(4)
    together = built(images)
    for i in range(4):
        torch.testing.assert_close(built(images[i : i + 1])[0], together[i], rtol=0, atol=1e-12)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(built(images[order]), together[order], rtol=0, atol=1e-12)
    assert (together[0] - together[1]).abs().max() > 1e-3


MECHANISM = "stack.layers.{}.attention.mechanism."
IDLE = {  # what nothing depends on: where the class token, which alone is classified, looks; what is off the grid
    ("relative", "class_token"): {MECHANISM.format(1) + name for name in ("coefficients", "by_content")},
    ("clipped_relative", "class_token"): {MECHANISM.format(1) + "displacements"},
    ("clipped_relative", "mean"): {MECHANISM.format(layer) + "nowhere" for layer in (0, 1)},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("embedding", "pooling", "reversible"), [("linear", "class_token", False), ("lookup", "mean", True)]
)
@pytest.mark.parametrize("attention", ATTENTION)
def test_gradients_reach_every_parameter_and_are_finite_differences(embedding, pooling, attention, reversible):
    data = PIXELS if embedding == "lookup" else DATA
    built = model(attention, pooling, data, embedding=embedding, reversible=reversible)
    images, labels = some_images(2), torch.tensor([0, 3])
    F.cross_entropy(built(images), labels).backward()
    assert [name for name, p in built.named_parameters() if p.grad is None] == []
    idle = {name for name, p in built.named_parameters() if not p.grad.any()}
    assert idle == IDLE.get((attention, pooling), set())
    for parameter in built.parameters():
        direction, step, there = torch.randn_like(parameter), 1e-6, parameter.detach().clone()
        losses = []
        with torch.no_grad():
            for sign in (1, -1):
                parameter.copy_(there + sign * step * direction)
                losses.append(F.cross_entropy(built(images), labels).item())
            parameter.copy_(there)
        slope = (losses[0] - losses[1]) / (2 * step)
        assert (parameter.grad * direction).sum().item() == pytest.approx(slope, rel=1e-4, abs=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attention", "reversible"),
    [
        ("lsh", True),
        ("performer", False),
    ],
)
def test_it_learns_real_digits_by_heart(attention, reversible):
    bunch = load_digits()
    images, labels = torch.from_numpy(bunch.images[:10])[:, None].to(torch.uint8), torch.from_numpy(bunch.target[:10])
    torch.manual_seed(0)
    config = ClassifierConfig.model_validate(
        {"dim": 24, "heads": 2, "ffn_dim": 48, "reversible": reversible, "attention": ATTENTION[attention]}
    )
    built = build_classifier(config, DATA, n_classes=10)
    optimizer = torch.optim.Adam(built.parameters(), lr=0.01)
    for _ in range(50):
        loss = F.cross_entropy(built(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (built.eval()(images).argmax(-1) == labels).sum() >= 9


def test_dropout_falls_on_the_embedded_input_too():
    built = model("full", "class_token", dropout=0.5)
    for module in built.stack.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    images = some_images(2)
    assert torch.equal(built(images), built(images))
    seen = []
    built.stack.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    before = built.positions(torch.cat((built.class_token.expand(2, 1, -1), built.embedding(images)), dim=1))
    built.train()(images)
    kept = seen[0] != 0
    torch.testing.assert_close(seen[0][kept], 2 * before[kept])
    assert 0.3 < kept.double().mean() < 0.7
    assert not kept[:, 0].all()
