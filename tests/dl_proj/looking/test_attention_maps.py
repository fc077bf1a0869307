"""attention_maps.py: pictures and numbers for each task, and mistakes."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_scripts import assert_refused, call

import dl_proj
from dl_proj.figure_style import DOTS, PAGE
from dl_proj.looking.pictures import _at_pixels


def drawn(tmp_path, *flags):
    """What a call wrote: the arrays, and the pictures' sizes by name."""
    assert call("attention_maps", *flags, "--output_dir", tmp_path).code == 0
    sizes = {}
    for path in tmp_path.glob("*.png"):
        with Image.open(path) as picture:
            sizes[path.name] = picture.size
    with np.load(tmp_path / "attention.npz") as arrays:
        return dict(arrays), sizes


def test_copy_task_looks_one_word_back(tmp_path):
    arrays, sizes = drawn(tmp_path)
    assert sizes.keys() == {"attention.png"}
    assert sizes["attention.png"][0] == round(PAGE * DOTS)
    (weights,) = arrays.values()  # (heads, n, n), queries of the second word
    word = dl_proj.load("synth-gen-lsh-r4", device="cpu").word_length
    where = weights.max(0)[word + 1 :].argmax(1)
    queries = np.arange(word + 1, weights.shape[1])
    assert (where == queries - word).mean() > 0.95  # what follows the symbol's first place


def test_classifier_draws_where_it_looks(tmp_path):
    pixels = np.zeros((28, 28), np.uint8)
    pixels[4:24, 12:16] = 255
    Image.fromarray(pixels).save(tmp_path / "one.png")
    flags = ["--checkpoint", "mnist-cls-lsh-r4", "--input", tmp_path / "one.png"]
    arrays, sizes = drawn(tmp_path / "maps", *flags)
    assert sizes.keys() == {"attention.png", "looks.png"}
    assert [array.shape for array in arrays.values()] == [(4, 36, 36)] * 2
    assert all(np.allclose(array.sum(-1), 1, atol=1e-5) for array in arrays.values())


def test_translation_has_three_kinds_of_attention(tmp_path):
    flags = ["--checkpoint", "translation-multi30k-linformer", "--input", "Two dogs play in the snow."]
    arrays, sizes = drawn(tmp_path, *flags)
    assert sizes.keys() == {"attention_encoder.png", "attention_decoder.png", "attention_cross.png"}
    assert any(name.endswith("cross_attention") for name in arrays)


def test_language_model_looks_at_earlier_tokens(tmp_path):
    arrays, _ = drawn(tmp_path, "--checkpoint", "lm-books-reformer", "--input", "The $x_1$ said\nno.")
    assert len(arrays) == 4
    assert not any(np.triu(array, 1).any() for array in arrays.values())


def test_look_at_a_patch_lies_on_its_pixels():
    look = torch.arange(4.0)  # 2 x 2 patches of 4 pixels a side, 2 apart: the side is 6
    spread = _at_pixels(look, 4, 2, 6)
    assert spread[0, 0] == 0
    assert spread[5, 5] == 3
    assert spread[0, 5] == 1
    assert spread[2, 2] == look.mean()


@pytest.mark.parametrize(
    ("flags", "mistake"),
    [
        (["--checkpoint", "lm-books-reformer"], ("input: ", "language")),
        (["--input", "abc"], ("input: ", "seed")),
        (["--checkpoint", "mnist-cls-lsh-r4", "--input", "nowhere.png"], ("input: ", "nowhere.png")),
        (["--checkpoint", "mnist-gen-lsh-r1-144", "--input", "ten"], ("input: ", "'ten'")),
        (["--checkpoint", "lm-books-reformer", "--input", "a" * 600], ("input: ", 600, 512)),
    ],
    ids=["no input", "word", "file", "class", "long"],
)
def test_mistakes(flags, mistake, tmp_path, capsys):
    assert_refused(call("attention_maps", *flags, "--output_dir", tmp_path, captured=capsys), [mistake])
