"""predict.py: it takes pictures for what evaluate.py takes them for, and names those that are none."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from tiny_scripts import as_yaml, assert_refused, assert_states, call, one_thread, tiny_classifier

from dl_proj import load
from dl_proj.checkpoint_folder import SHIPPED
from dl_proj.experiments.images.data import load_configured


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory):
    """A classifier of three digits that has seen little, and its test images as files."""
    folder = tmp_path_factory.mktemp("predict")
    changes = {"runs_dir": str(folder), "train.trackers": [], "train.max_steps": 30, "data.labels": [3, 8, 1]}
    with pytest.MonkeyPatch.context() as patch, one_thread():
        patch.setattr(Figure, "savefig", lambda figure, path, **settings: Path(path).touch())
        assert call("cls_train", "--config", as_yaml(folder / "c.yaml", tiny_classifier(changes))).code == 0
    test = load_configured(load(folder / "tiny-cls/version_0").config.data).test
    for i, (image, label) in enumerate(test):
        path = folder / "pics" / "381"[label] / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(path)
    return folder


@pytest.fixture
def run(trained_once, tmp_path):
    """The run; its pictures are in pics/<digit>/."""
    shutil.copytree(trained_once / "pics", "pics")
    return trained_once / "tiny-cls/version_0"


def rows(path):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def predict(script, run, *words):
    outcome = script("predict", "--checkpoint", run, "--device", "cpu", *words)
    assert outcome.code == 0, outcome.lines
    return outcome.out.splitlines()


@pytest.mark.parametrize("batch_size", [7, 100])
def test_pictures_are_taken_for_what_evaluate_takes_them_for(batch_size, run, script, monkeypatch):
    lines = predict(script, run, "pics", "--output", "out/p.csv", "--batch_size", batch_size)
    assert lines[-1] == "written: out/p.csv"
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **settings: Path(path).touch())
    assert script("evaluate", "--checkpoint", run, "--device", "cpu").code == 0
    found = rows("out/p.csv")
    counts = {true: dict.fromkeys("381", 0) for true in "381"}
    for row in found:
        counts[Path(row["picture"]).parent.name][row["class"]] += 1
    (table,) = Path("runs/evaluation").rglob("confusion.csv")
    assert rows(table) == [{"true": true} | {name: str(n) for name, n in counts[true].items()} for true in "381"]
    assert len({row["class"] for row in found}) > 1, "or a model that always says the same would do"
    for line, row in zip(lines, found, strict=False):
        shares = {name: float(row[f"p({name})"]) for name in "381"}
        assert (sum(shares.values()), shares[row["class"]]) == (pytest.approx(1), max(shares.values()))
        best = sorted(shares, key=shares.get, reverse=True)
        assert line == f"{row['picture']}: " + ", ".join(f"{name} {100 * shares[name]:.1f} %" for name in best)


def test_files_folders_and_patterns(run, script):
    flat = sorted(Path("pics/8").glob("*.png"))
    shutil.copy(flat[0], "one [1].png")
    lines = predict(script, run, "one [1].png", "pics/8/*.png", "pics/8", "--top", 1)
    assert [line.partition(": ")[0] for line in lines] == ["one [1].png", *map(str, flat)], "each once"
    assert all(line.count("%") == 1 for line in lines)
    assert predict(script, run, "p*s/**/*.png", "--top", 1) == predict(script, run, "pics", "--top", 1)


def test_broken_pictures_are_named_after_the_others_are_classified(run, script):
    Path("pics/8/000.png").write_bytes(b"no picture")
    Path("pics/8/note.txt").write_text("x")
    outcome = script("predict", "--checkpoint", run, "--device", "cpu", "pics/8", "--output", "p.csv")
    assert outcome.code == 2
    assert_states(outcome.lines[0], "pics/8", 1, ".txt")
    assert_states(outcome.lines[1], "pics/8/000.png")
    assert len(outcome.lines) == 2
    assert len(rows("p.csv")) == len(list(Path("pics/8").glob("*.png"))) - 1


def test_what_is_no_picture_is_refused_before_anything_is_done(run, script):
    Path("empty").mkdir()
    outcome = script("predict", "--checkpoint", run, "--device", "cpu", "pics/8", "no/*.png", "empty")
    assert_refused(outcome, [("no/*.png",), ("empty", ".png")])
    assert_refused(script("predict", "--checkpoint", run), [("pictures",)])
    outcome = script("predict", "--checkpoint", "synth-gen-full", "pics")
    assert_refused(outcome, [(f"{SHIPPED}/synth-gen-full/config.yaml: task", "'classification'", "'copy'")])


@pytest.mark.slow
def test_the_shipped_model_takes_mnists_pictures_for_what_evaluate_does(real_data, script):
    classifier = load("mnist-cls-lsh-r4", device="cpu", data={"root": str(real_data)})
    test = load_configured(classifier.config.data).test
    raw = np.fromfile(real_data / "MNIST/raw/t10k-images-idx3-ubyte", np.uint8)[16:].reshape(-1, 28, 28)
    Path("pics").mkdir()
    for i, image in enumerate(raw[:200]):
        Image.fromarray(image).save(f"pics/{i:03}.png")
    predict(script, "mnist-cls-lsh-r4", "pics", "--output", "p.csv")
    expected = classifier.model(test.levels[:200]).argmax(-1)
    assert torch.equal(torch.tensor([int(row["class"]) for row in rows("p.csv")]), expected)
    assert (expected == test.labels[:200]).sum() > 190
