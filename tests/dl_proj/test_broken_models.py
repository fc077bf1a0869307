"""Finite weights, nan or infinite logits: every script that uses such a model ends with one line that says so."""

import re
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from tiny_scripts import (
    TEXT,
    as_yaml,
    call,
    one_thread,
    tiny,
    tiny_classifier,
    tiny_generator,
    tiny_language,
    tiny_translation,
    write_pairs,
)

from my_custom_ai.custom_train.checkpoint import load_tensors, save_tensors

TRAININGS = {
    "synth_train": tiny(),
    "cls_train": tiny_classifier(),
    "generation_train": tiny_generator(),
    "lm_train": tiny_language(),
    "translation_train": tiny_translation(),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of each training, by script, whose last layer overflows; all in one folder with their data."""
    folder = tmp_path_factory.mktemp("broken")
    with pytest.MonkeyPatch.context() as patch, one_thread():
        patch.chdir(folder)
        patch.setattr(Figure, "savefig", lambda figure, path, **settings: Path(path).touch())
        Path("text.txt").write_text(TEXT, encoding="utf-8")
        write_pairs()
        Image.new("L", (8, 8), 200).save("grey.png")
        for script, config in TRAININGS.items():
            config["train"] |= {"max_steps": 1, "trackers": []}
            assert call(script, "--config", as_yaml("c.yaml", config)).code == 0
            overflowing(Path("runs") / config["experiment_name"] / "version_0/checkpoints/best/model.safetensors")
    return folder, {script: f"runs/{config['experiment_name']}/version_0" for script, config in TRAININGS.items()}


def overflowing(weights):
    """Whole, with a checksum, and each number in it finite."""
    tensors, note = load_tensors(weights)
    last = tensors["to_logits.weight"]
    last.copy_(torch.where(last > 0, 3e38, -3e38))
    save_tensors(weights, tensors, note)


USES = {
    **{f"evaluate, {name}": ("evaluate", name, []) for name in TRAININGS},
    **{f"export, {name}": ("export", name, ["--formats", "pt2"]) for name in TRAININGS},
    "predict": ("predict", "cls_train", ["grey.png"]),
    "shift_test": ("shift_test", "cls_train", ["--max_shift", 1]),
    "attention of a classifier": ("attention_maps", "cls_train", ["--input", "grey.png"]),
    "attention of a copier": ("attention_maps", "synth_train", []),
    "attention of a generator": ("attention_maps", "generation_train", ["--input", "3"]),
    "attention of a language model": ("attention_maps", "lm_train", ["--input", "The cat"]),
    "attention of a translator": ("attention_maps", "translation_train", ["--input", "a dog"]),
    "a comparison": ("synth_models_comparison", "synth_train", ["--n_test", 8, "--lsh.bucket_size", 4]),
    "drawing": ("mnist_generator", "generation_train", ["--per_label", 1]),
    "a judge": ("mnist_generator", "cls_train", ["--checkpoint", "mnist-gen-full-144", "--per_label", 1]),
    "a text": ("lm_generate", "lm_train", ["--length", 3]),
    "a sentence": ("translate", "translation_train", ["a dog sees the man ."]),
    "greedy decoding": ("translate", "translation_train", ["--beam_size", 1, "a dog sees the man ."]),
    "a test set": ("translation_evaluate", "translation_train", []),
}


@pytest.mark.parametrize("use", USES)
def test_a_script_ends_with_one_line(use, runs, script, monkeypatch):
    folder, trained = runs
    name, training, flags = USES[use]
    flag = {"shift_test": "checkpoints", "synth_models_comparison": "checkpoints"}.get(name, "checkpoint")
    flag = "judge" if use == "a judge" else flag
    monkeypatch.chdir(folder)
    outcome = script(name, f"--{flag}", trained[training], *flags)
    lines = [line for line in outcome.lines if not re.search(r"\d+%|^$| pairs: ", line)]  # no progress, no counts
    assert outcome.code == 1, outcome
    assert len(lines) == 1, lines
    assert lines[0].startswith("stopped: ") and "nan or infinite" in lines[0]
    assert "written" not in outcome.out


def test_an_evaluation_measures_the_others(runs, script, monkeypatch):
    folder, _ = runs
    monkeypatch.chdir(folder)
    assert call("synth_train", "--config", as_yaml("c.yaml", TRAININGS["synth_train"])).code == 0
    outcome = script("evaluate", "--checkpoint", "runs/tiny")
    assert outcome.code == 1
    assert outcome.lines[-1].startswith("stopped: version_0: ") and "nan or infinite" in outcome.lines[-1]
    assert "| version_1 " in outcome.out and "| version_0 " not in outcome.out
