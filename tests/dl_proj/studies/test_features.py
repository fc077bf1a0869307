"""performance_studies.py: its errors are those of the formulas, fall as the theory says, and come again."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from matplotlib.image import imread
from tiny_scripts import as_yaml, changed, files_below
from torch import nn

import dl_proj.studies.features as feature_studies
from dl_proj.cli import CONFIGS
from dl_proj.pictures import save_figure
from dl_proj.studies.features import approximation, equivariance, slope
from dl_proj.studies.settings import ApproximationConfig, EquivarianceConfig

CPU = torch.device("cpu")
FOLDER = Path("runs/performance_studies")
ALL = ("csv", "json", "png", "pdf")
TINY = (
    *("--device", "cpu", "--approximation.length", "8", "--approximation.head_dim", "4"),
    *("--approximation.n_features", "4,8", "--approximation.samples", "2", "--equivariance.dim", "8"),
    *("--equivariance.heads", "2", "--equivariance.side", "2", "--equivariance.shift", "1"),
    *("--equivariance.n_features", "4,8", "--equivariance.samples", "2"),
)


def by_curve(rows, name):
    """{curve: [value for each number of features]}."""
    found = {}
    for row in rows:
        found.setdefault(row["curve"], []).append(row[name])
    return found


@pytest.fixture
def watched(monkeypatch):
    """What was given to the exact attention, and all Performers that were made."""
    given, made = [], []

    class Full(feature_studies.FullAttention):
        def forward(self, q, k, v, **others):
            given.append([x[0, 0].double().numpy() for x in (q, k, v)])
            return super().forward(q, k, v, **others)

    class Performer(feature_studies.PerformerAttention):
        def __init__(self, *args, **settings):
            super().__init__(*args, **settings)
            made.append(self)

    monkeypatch.setattr(feature_studies, "FullAttention", Full)
    monkeypatch.setattr(feature_studies, "PerformerAttention", Performer)
    return given, made


def naive_softmax_attention(q, k, v):
    weights = np.exp(q @ k.T / np.sqrt(q.shape[-1]))
    return weights / weights.sum(1, keepdims=True) @ v


def naive_performer(q, k, v, directions, both_signs):
    """Choromanski et al. 2021, lemma 1; its features' common factor cancels."""
    directions = np.concatenate((directions, -directions)) if both_signs else directions

    def phi(x):
        x = x / x.shape[-1] ** 0.25
        return np.exp(x @ directions.T - (x**2).sum(1, keepdims=True) / 2)

    weights = phi(q) @ phi(k).T
    return weights / weights.sum(1, keepdims=True) @ v


def test_the_error_of_the_approximation_is_the_formulas(watched):
    config = ApproximationConfig(length=20, head_dim=4, scale=0.7, n_features=(4, 10), samples=3)
    rows = approximation(config, 5, CPU)
    given, made = watched
    assert len(given) == 3 and len(made) == 3 * 8
    assert len({performer.projection.numpy().tobytes() for performer in made}) > 12, "each sample draws its own"
    errors = {}
    for i, performer in enumerate(made):
        directions, hyperbolic = performer.projection.double().numpy(), performer.kernel == "hyperbolic"
        assert len(directions) == performer.n_features // (2 if hyperbolic else 1)
        q, k, v = given[i // 8]
        off = naive_performer(q, k, v, directions, hyperbolic) - naive_softmax_attention(q, k, v)
        curve = f"{performer.kernel}, {'orthogonal' if performer.orthogonal else 'iid'}"
        errors.setdefault((curve, performer.n_features), []).append((off**2).mean())
    assert [(row["curve"], row["n_features"]) for row in rows] == list(errors)
    for row in rows:
        found = errors[row["curve"], row["n_features"]]
        assert row["mse"] == pytest.approx(np.mean(found), rel=1e-3)
        assert row["standard_error"] == pytest.approx(np.std(found, ddof=1) / np.sqrt(3), rel=1e-2)


def test_queries_and_keys_are_as_large_as_asked_for_and_each_sample_has_its_own(watched):
    approximation(ApproximationConfig(length=500, head_dim=16, scale=0.2, n_features=(2,), samples=2), 0, CPU)
    given, _ = watched
    for q, k, v in given:
        assert [x.std() for x in (q, k, v)] == pytest.approx([0.2, 0.2, 1], rel=0.05)
        assert abs(np.corrcoef(q.flatten(), k.flatten())[0, 1]) < 0.1
    for one, other in zip(*given, strict=True):
        assert abs(np.corrcoef(one.flatten(), other.flatten())[0, 1]) < 0.1


def test_errors_fall_as_one_over_the_features_and_orthogonal_ones_are_smaller():
    config = ApproximationConfig(length=256, head_dim=8, n_features=(8, 32, 128), samples=150)
    rows = approximation(config, 1, CPU)
    curves = by_curve(rows, "mse")
    assert list(curves) == [f"{kernel}, {how}" for kernel in ("softmax", "hyperbolic") for how in ("iid", "orthogonal")]
    for kernel in ("softmax", "hyperbolic"):
        assert all(a < b for a, b in zip(curves[f"{kernel}, orthogonal"], curves[f"{kernel}, iid"], strict=True))
    assert all(a < b for a, b in zip(curves["hyperbolic, orthogonal"], curves["softmax, orthogonal"], strict=True))
    for curve in curves:
        assert slope(rows, curve, "mse") == pytest.approx(-1, abs=0.2), curve


SMALL = EquivarianceConfig(dim=16, heads=2, side=4, shift=2, n_features=(64, 256, 1024), samples=6)


def test_what_a_translation_changes():
    rows = equivariance(SMALL, 0, CPU)
    curves = by_curve(rows, "change")
    assert list(curves) == ["relative, exact softmax", "clipped relative", "relative, plain directions", "relative"]
    for curve, values in curves.items():
        if len(values) == 1:
            assert values[0] < 1e-12, curve
        else:
            assert min(values) > 1e-4
            assert slope(rows, curve, "change") == pytest.approx(-0.5, abs=0.15), curve
    assert [row["n_features"] for row in rows] == [None, None, 64, 256, 1024, 64, 256, 1024]
    assert not set(curves["relative"]) & set(curves["relative, plain directions"])


class Placed(nn.Module):
    """Gives each token a number for its place in the grid, or what it was given, and sees no other."""

    shared_query_key = False

    def __init__(self, by_place):
        super().__init__()
        self.by_place = by_place

    def forward(self, q, k, v, *, mask):
        self.masks = [*getattr(self, "masks", []), mask]
        places = torch.arange(v.shape[2], dtype=v.dtype)[:, None]
        return places.expand_as(v) if self.by_place else v


@pytest.mark.parametrize("by_place", [True, False])
def test_the_change_is_relative_to_the_output(by_place, monkeypatch):
    """Which for numbers of places is known."""
    mechanism = Placed(by_place)
    monkeypatch.setattr(feature_studies, "_mechanisms", lambda config, seed: [("x", 4, mechanism)])
    monkeypatch.setattr(
        feature_studies.MultiHeadAttention, "_merge", lambda self, heads: heads.transpose(1, 2).flatten(2)
    )
    config = EquivarianceConfig(dim=2, heads=2, side=3, shift=2, n_features=(4,), samples=2)
    (row,) = equivariance(config, 0, CPU)
    here, there = ([0] + [1 + (r + s) * 5 + c + s for r in range(3) for c in range(3)] for s in (0, 2))
    expected = np.linalg.norm(np.subtract(here, there)) / np.linalg.norm(here) if by_place else 0
    assert row["change"] == pytest.approx(expected, rel=1e-12)
    assert row["standard_error"] == 0
    for mask, places in zip(mechanism.masks, [here, there] * 2, strict=True):
        assert mask.shape == (1, 26)
        assert mask[0].nonzero().flatten().tolist() == places


def test_the_exponent_is_that_of_a_least_squares_line():
    random = np.random.default_rng(0)
    rows = [{"curve": "a", "n_features": m, "mse": m**-0.7 * random.uniform(0.5, 2)} for m in (4, 10, 50, 300)]
    other = [{"curve": "b", "n_features": 3, "mse": 9.0}]
    expected = np.polyfit(*np.log([[row["n_features"], row["mse"]] for row in rows]).T, 1)[0]
    assert slope(other + rows, "a", "mse") == pytest.approx(expected, rel=1e-4)


def run_of(script, *flags):
    outcome = script("performance_studies", *TINY, *flags)
    assert outcome.code == 0, outcome.lines
    return outcome


def rows_of(study):
    with (FOLDER / f"{study}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_what_is_written(script):
    out = run_of(script, "--studies", "approximation,equivariance").out
    assert files_below(FOLDER) == {f"{study}.{suffix}" for study in ("approximation", "equivariance") for suffix in ALL}
    assert len(files_below(".")) == 8
    config = ApproximationConfig(length=8, head_dim=4, n_features=(4, 8), samples=2)
    rows = approximation(config, 0, CPU)
    assert rows_of("approximation") == [{key: str(value) for key, value in row.items()} for row in rows]
    assert list(by_curve(rows_of("equivariance"), "change")) == [
        "relative, exact softmax",
        "clipped relative",
        "relative, plain directions",
        "relative",
    ]
    assert [row["n_features"] for row in rows_of("equivariance")] == ["", "", "4", "8", "4", "8"]
    for study in ("approximation", "equivariance"):
        assert len(np.unique(imread(FOLDER / f"{study}.png"))) > 20, "not blank"
        assert (FOLDER / f"{study}.pdf").read_bytes().startswith(b"%PDF-")
    for curve in by_curve(rows, "mse"):
        assert f"{curve}: falls as n_features^{slope(rows, curve, 'mse'):.2f}\n" in out


@pytest.mark.parametrize("study", ["approximation", "equivariance"])
def test_a_study_by_itself_that_comes_again(study, script, monkeypatch):
    monkeypatch.setattr("dl_proj.pictures.save_figure", lambda figure, path: path.touch())
    texts = []
    for seed in (3, 3, 4):
        torch.rand(1)  # what was drawn before is of no matter
        run_of(script, "--studies", study, "--seed", seed)
        texts.append((FOLDER / f"{study}.csv").read_text())
    assert texts[0] == texts[1] != texts[2]
    assert files_below(".") == {str(FOLDER / f"{study}.{suffix}") for suffix in ALL}


SMALLER = {  # than perf_study_small.yaml
    "device": "cpu",
    "approximation.length": 8,
    "approximation.samples": 2,
    "equivariance.n_features": [4, 8],
    "reconstruction.length": 16,
    "reconstruction.bucket_sizes": [4, 16],
    "reconstruction.rounds": [1, 2],
    "length.lengths": [512],
    "length.tokens": 4096,
    "length.calls": 1,
    "linformer.lengths": [256],
    "linformer.tokens": 256,
    "linformer.calls": 1,
    "depth.lengths": [64],
    "depth.tokens": 64,
    "depth.depths": [1, 2],
    "model.lengths": [64, 128],
    "model.tokens": 128,
    "model.calls": 1,
}
PICTURES = {
    "approximation": ["approximation"],
    "equivariance": ["equivariance"],
    "reconstruction": ["reconstruction", "reconstruction_error"],
    "length": ["length_train", "length_forward"],
    "linformer": ["linformer"],
    "depth": ["depth"],
    "model": ["model_encoder_only", "model_encoder_decoder"],
}


def smaller(changes=None):
    config = yaml.safe_load((CONFIGS / "perf_study_small.yaml").read_text())
    config["length"]["variants"] = config["length"]["variants"][1:2]  # each has a process
    return as_yaml("small.yaml", changed(changed(config, SMALLER), changes))


@pytest.mark.slow
def test_every_study_leaves_its_files(script, forkserver, monkeypatch):
    figures = {}

    def save(figure, path):  # one format of the two: drawing is what takes its time here
        figures[path.stem] = figure
        save_figure(figure, path) if path.suffix == ".png" else path.touch()

    monkeypatch.setattr("dl_proj.pictures.save_figure", save)
    outcome = script("performance_studies", "--config", smaller(), "--seed", 4)
    assert outcome.code == 0, outcome.lines
    assert list(yaml.safe_load(Path("small.yaml").read_text())["studies"]) == list(PICTURES)
    names = {f"{study}.{suffix}" for study in PICTURES for suffix in ("csv", "json")}
    names |= {f"{name}.{suffix}" for own in PICTURES.values() for name in own for suffix in ("png", "pdf")}
    assert files_below(FOLDER) == names
    for study, own in PICTURES.items():
        whole = json.loads((FOLDER / f"{study}.json").read_text())
        assert [
            {key: "" if value is None else str(value) for key, value in row.items()} for row in whole["rows"]
        ] == rows_of(study)
        assert whole["settings"]["seed"] == 4
        assert whole["machine"]["threads"] == 1 and whole["machine"]["torch"] == torch.__version__
        for name in own:
            assert len(np.unique(imread(FOLDER / f"{name}.png"))) > 20, "not blank"
    assert json.loads((FOLDER / "length.json").read_text())["settings"]["lengths"] == [512]
    for row in rows_of("length"):
        assert -2 < float(row["process_mib"]) - float(row["allocated_mib"]) < 30
    for name, modes in (("length_train", ["train"]), ("model_encoder_only", ["forward", "train"])):
        rows = [row for row in rows_of(name.split("_")[0]) if row.get("architecture") in (None, "encoder_only")]
        shown = [y for axes in figures[name].axes for bars in axes.containers for y in bars.lines[0].get_ydata()]
        told = ("seconds", "allocated_mib")
        measured = [float(row[m]) for mode in modes for m in told for row in rows if row["mode"] == mode]
        units = [y / figure for y, figure in zip(shown, measured, strict=True)]
        assert units == pytest.approx([round(unit) for unit in units])
        assert {round(unit) for unit in units} <= {1, 1000, 10**6}, "a panel of small numbers has a smaller unit"
    bars = "\n".join(outcome.lines)
    assert all(f"{study}: 100%" in bars for study in PICTURES)
    assert not any(word in bars for word in ("USDT", "Warning", "ERROR"))


def test_a_study_that_fails_takes_no_other_with_it(script, monkeypatch):
    def fail(*_):
        raise OSError("no memory")

    monkeypatch.setattr("dl_proj.studies.run.by_rank", fail)
    config = smaller({"studies": ["reconstruction", "linformer", "depth"]})
    outcome = script("performance_studies", "--config", config)
    assert outcome.code == 1
    assert outcome.lines[-1] == "stopped: no memory"
    assert {Path(name).stem for name in files_below(FOLDER)} == {"reconstruction", "reconstruction_error"}
