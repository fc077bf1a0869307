"""Classifiers without attention: what they compute, at any size, and that the script trains them."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny_scripts import as_yaml, assert_refused, tiny_classifier
from torch.func import functional_call

from dl_proj.experiments.images.classification.settings import ClassifierTrainConfig
from dl_proj.experiments.images.classification.train import build_classification_model
from dl_proj.models.image_baselines import ConvolutionalClassifier, LinearClassifier


def levels(channels, side, vocab_size, batch=3):
    return torch.randint(vocab_size, (batch, channels, side, side), dtype=torch.uint8)


def test_the_linear_model_is_logistic_regression_on_scaled_pixels():
    model = LinearClassifier(channels=2, side=3, vocab_size=5, n_classes=4).double()
    images = levels(2, 3, 5)
    assert torch.equal(model(images), torch.zeros(3, 4)), "equal probabilities at first"
    weights, bias = torch.randn(4, 18).double(), torch.randn(4).double()
    logits = functional_call(model, {"to_logits.weight": weights, "to_logits.bias": bias}, images)
    pixels = images.double().reshape(3, 18) / 2 - 1  # 0 ... 4 -> -1 ... 1
    torch.testing.assert_close(logits, pixels @ weights.T + bias)


@pytest.mark.parametrize("side", [1, 2, 5, 14])
def test_the_cnn_is_its_definition(side):
    model = ConvolutionalClassifier(channels=1, side=side, vocab_size=256, n_classes=3, widths=(4, 6)).double().eval()
    images = levels(1, side, 256)
    x = images.double() / 127.5 - 1
    for block in model.features:
        convolution = block[0]
        windows = F.unfold(x, 3, padding=1)  # (b, channels * 9, pixels)
        x = convolution.weight.flatten(1) @ windows + convolution.bias[:, None]
        x = x.clamp_min(0).unflatten(-1, (side, side))
        rows = -(-side // 2)
        padded = F.pad(x, (0, 2 * rows - side) * 2)  # zeros never exceed a relu's output
        x = padded.unflatten(-1, (rows, 2)).unflatten(-3, (rows, 2)).amax((-1, -3))
        side = rows
    expected = x.flatten(1) @ model.to_logits.weight.T + model.to_logits.bias
    torch.testing.assert_close(model(images), expected)


KINDS = {"linear": {"kind": "linear"}, "cnn": {"kind": "cnn", "channels": [4, 6]}}


@pytest.mark.parametrize("kind", KINDS)
def test_the_script_trains_them_on_the_same_images(script, kind):
    changes = {"model": KINDS[kind], "train.max_steps": 150, "train.trackers": []}
    as_yaml("c.yaml", tiny_classifier(changes))
    outcome = script("cls_train", "--config", "c.yaml")
    assert outcome.code == 0, outcome.lines
    assert "no attention" in outcome.out
    figures = json.loads(Path("runs/tiny-cls/version_0/metrics.json").read_text())
    assert figures["test/accuracy"] > 0.6, "chance is 0.1"
    assert figures["parameters"] == {"linear": 650, "cnn": 4 * 10 + 6 * 37 + 10 * (6 * 4 + 1)}[kind]
    assert "tokens_per_second" not in figures and figures["examples_per_second"] > 0
    loaded = script("evaluate", "--checkpoint", "runs/tiny-cls/version_0", "--device", "cpu")
    assert loaded.code == 0, loaded.lines
    Image.new("L", (8, 8)).save("x.png")
    maps = script("attention_maps", "--checkpoint", "runs/tiny-cls/version_0", "--input", "x.png", "--device", "cpu")
    assert_refused(maps, [("checkpoint", "runs/tiny-cls/version_0", "attention")])


def test_a_file_without_a_kind_is_a_transformer_and_a_flag_makes_another_of_it(script):
    config = ClassifierTrainConfig.model_validate(tiny_classifier())
    assert config.model.kind == "transformer"
    as_yaml("c.yaml", tiny_classifier({"train.max_steps": 1, "train.trackers": []}))
    outcome = script("cls_train", "--config", "c.yaml", "--model.kind", "cnn", "--model.channels", "3")
    assert outcome.code == 0, outcome.lines
    assert "ConvolutionalClassifier" in outcome.out


def test_the_seed_draws_the_cnns_weights():
    def weights(seed):
        config = ClassifierTrainConfig.model_validate(tiny_classifier({"model": KINDS["cnn"], "seed": seed}))
        return build_classification_model(config, 10).to_logits.weight

    assert torch.equal(weights(1), weights(1)) and not torch.equal(weights(1), weights(2))


def test_settings_of_another_kind_are_refused(script):
    as_yaml("c.yaml", tiny_classifier({"model": {"kind": "cnn", "heads": 2}}))
    assert_refused(script("cls_train", "--config", "c.yaml"), [("c.yaml: model.heads", "channels", "dropout", 2)])
    as_yaml("c.yaml", tiny_classifier({"model": {"kind": "linear", "channels": [2]}}))
    assert script("cls_train", "--config", "c.yaml").code == 2
    as_yaml("c.yaml", tiny_classifier({"model": {"kind": "tree"}}))
    assert_refused(script("cls_train", "--config", "c.yaml"), [("c.yaml: model.kind", "transformer", "cnn", "tree")])
