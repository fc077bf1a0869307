"""export.py: shipped models in onnxruntime, the language model's step among them, and mistakes."""

from pathlib import Path
from unittest import mock

import pytest
import torch
from tiny_scripts import assert_refused, call

import dl_proj
from dl_proj.experiments.images.data import picture_levels
from dl_proj.exporting import export
from dl_proj.exporting.graphs import onnx_runner

TOLERANCE = {"rtol": 0, "atol": 1e-5}
OF_LARGE_LOGITS = {"rtol": 1e-5, "atol": 1e-5}  # up to 25, where float32 is no finer than 2e-6


@pytest.mark.slow
@torch.no_grad()
def test_classifier_in_onnxruntime_gives_the_models_logits(tmp_path, capfd):
    assert call("export", "--output_dir", tmp_path).code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "model.pt2"}
    run, trained = onnx_runner(tmp_path / "model.onnx"), dl_proj.load("mnist-cls-lsh-r4", device="cpu")
    grid = Path(dl_proj.__file__).parent / "checkpoints/mnist-gen-lsh-r4-144/samples.png"
    strokes = torch.randint(256, (64, 1, 7, 7), generator=torch.Generator().manual_seed(0)).float()
    images = torch.nn.functional.interpolate(strokes, size=28, mode="bilinear").to(torch.uint8)
    images = torch.cat((images, picture_levels(grid, trained.config.data).unsqueeze(0)))
    torch.testing.assert_close(run({"images": images}), trained.model(images), **TOLERANCE)


@pytest.mark.slow
@torch.no_grad()
def test_step_of_language_model_in_onnxruntime_is_the_models_step_with_its_cache(tmp_path):
    flags = ["--checkpoint", "lm-books-reformer", "--formats", "onnx", "--output_dir", tmp_path]
    assert call("export", *flags).code == 0
    run, trained = onnx_runner(tmp_path / "model.onnx"), dl_proj.load("lm-books-reformer", device="cpu")
    text = "It was the best of times, it was the worst of times, it was the age of wisdom"
    tokens, model = torch.tensor([trained.tokenizer.encode(text)]), trained.model
    caches = model.stack.new_cache(1, len(text))
    for i in range(len(text)):
        x = model.positions(model.embedding(tokens[:, i : i + 1]), first=i)
        step = model.to_logits(model.stack.step(x, caches))[:, -1]
        if i % 20 == 0 or i == len(text) - 1:
            got = run({"tokens": tokens[:, : i + 1]})[:, -1]
            torch.testing.assert_close(got, step, **OF_LARGE_LOGITS)
            torch.testing.assert_close(got.softmax(-1), step.softmax(-1), **TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", ["translation-multi30k-linformer", "mnist-gen-lsh-r1-144", "synth-gen-lsh-r2"])
def test_every_task_can_be_exported(checkpoint, tmp_path):
    assert call("export", "--checkpoint", checkpoint, "--formats", "onnx", "--output_dir", tmp_path).code == 0


def test_missing_packages_are_named_before_anything_is_done(tmp_path, capsys):
    with mock.patch.object(export, "find_spec", lambda name: None if name == "onnxscript" else name):
        outcome = call("export", "--output_dir", tmp_path, captured=capsys)
    assert_refused(outcome, [("formats: ", "onnxscript", "pt2")])


@pytest.mark.slow
def test_graph_that_computes_something_else_is_refused(tmp_path, capsys):
    with mock.patch.object(export, "_written", lambda *_: lambda inputs: torch.zeros(len(inputs["images"]), 10)):
        outcome = call("export", "--output_dir", tmp_path, "--formats", "pt2", captured=capsys)
    assert outcome.code == 2
    assert outcome.lines[0].startswith("tolerance: ")
