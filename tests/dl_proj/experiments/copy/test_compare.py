"""synth_models_comparison.py: its table says what an evaluation of one's own finds, and is evaluated as it says."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from safetensors.torch import load_file
from tiny_scripts import assert_refused, files_below, over, tiny, tiny_yaml

import dl_proj.experiments.copy.compare as comparison
from dl_proj.cli import config_from
from dl_proj.experiments.copy.compare import PAPER, copies_figure
from dl_proj.experiments.copy.settings import SynthComparisonConfig, SynthTrainConfig
from dl_proj.experiments.copy.train import build_copy_model, copy_dataset
from my_transformers import LSHAttention, SharedQKAttention

TABLE = Path("out/table.csv")
ROUNDS = (5, 2, 1)


@pytest.fixture
def compared(script, trained):
    """Compares a model trained with full attention and one with LSH: {(checkpoint, way): accuracy in percent}."""

    def compare(*flags, names=("shared_qk", "lsh")):
        checkpoints = ",".join(str(trained[name]) for name in names)
        own = ["--checkpoints", checkpoints, "--eval_rounds", ",".join(map(str, ROUNDS)), "--lsh.bucket_size", "3"]
        own += ["--n_test", 12, "--output_dir", "out", "--device", "cpu"]
        outcome = script("synth_models_comparison", *over(own, flags))
        assert outcome.code == 0, outcome.lines
        with TABLE.open(newline="") as file:
            rows = list(csv.DictReader(file))
        compare.out = outcome.out
        by_path = {str(trained[name]): name for name in names}
        return {(by_path[row["checkpoint"]], row["evaluated"]): row for row in rows}

    return compare


def accuracy(model, sequences):
    """In percent, symbol by symbol."""
    hits = []
    with torch.no_grad():
        for sequence in sequences:
            said = model.eval()(sequence[None, :-1])[0].argmax(-1)
            hits += (said[6:] == sequence[7:]).tolist()  # 12 tokens: SOS at 0 and 6
    return 100 * sum(hits) / len(hits)


def evaluated_by_hand(run, attention, n_test=12):
    """A model built anew with the weights of a run and some attention, on the test sequences."""
    config = SynthTrainConfig.model_validate(tiny({"model.attention": attention}))
    model = build_copy_model(config)
    model.load_state_dict(load_file(run / "checkpoints/best/model.safetensors"))
    data = copy_dataset(config.data, "test", n_test, config.seed)
    return accuracy(model, [data[i] for i in range(n_test)])


@pytest.mark.slow
def test_what_it_writes_and_where(compared):
    before = files_below(".")
    compared()
    assert files_below(".") - before == {"out/table.csv", "out/table.png", "out/table.pdf"}
    picture = imread("out/table.png")
    assert len(np.unique(picture)) > 20, "not blank"


def test_the_table_names_every_row_and_column_once(compared):
    rows = compared()
    ways = ["full", *(f"LSH-{r}" for r in ROUNDS)]
    assert list(rows) == [(name, way) for name in ("shared_qk", "lsh") for way in ways]
    assert {(name, row["trained"], row["length"]) for (name, _), row in rows.items()} == {
        ("shared_qk", "full", "12"),
        ("lsh", "LSH-2", "12"),
    }


def test_every_cell_is_what_an_evaluation_by_hand_finds(compared, trained):
    """The model that was trained with full attention gets the comparison's LSH settings, the other keeps its own."""
    for (name, way), row in compared().items():
        if way == "full":
            attention = {"kind": "shared_qk"}
        else:
            bucket_size = {"shared_qk": 3, "lsh": 2}[name]
            attention = {"kind": "lsh", "bucket_size": bucket_size, "eval_rounds": int(way.removeprefix("LSH-"))}
        assert float(row["accuracy"]) == pytest.approx(evaluated_by_hand(trained[name], attention), abs=1e-4)


def test_cells_differ(compared):
    """Or all of them could be one and the same evaluation."""
    values = {float(row["accuracy"]) for row in compared("--n_test", 16).values()}
    assert len(values) > 2


def test_each_column_is_evaluated_with_the_rounds_it_names(compared, monkeypatch):
    """Counted where they are drawn."""
    seen = []
    draw = LSHAttention._rotations

    def watch(self, qk, n_buckets):
        rotations = draw(self, qk, n_buckets)
        seen.append((rotations.shape[1], self.eval_rounds, self.bucket_size, self.training))
        return rotations

    full = []
    attend = SharedQKAttention.forward
    monkeypatch.setattr(SharedQKAttention, "forward", lambda *a, **k: full.append(1) or attend(*a, **k))
    monkeypatch.setattr(LSHAttention, "_rotations", watch)
    compared()
    assert seen == [(r, r, bucket_size, False) for bucket_size in (3, 2) for r in ROUNDS]
    assert len(full) == 2, "one batch for each of the two rows"


@pytest.mark.parametrize(
    ("field", "value"),
    [("bucket_size", 4), ("n_buckets", 4), ("window", 2), ("rule", "chunk"), ("deduplicate", False)],
)
def test_the_lsh_settings_reach_the_mechanism(field, value, compared, monkeypatch):
    seen = []
    draw = LSHAttention._rotations
    monkeypatch.setattr(
        LSHAttention, "_rotations", lambda self, *a: seen.append(getattr(self, field)) or draw(self, *a)
    )
    compared(f"--lsh.{field}", str(value).lower(), names=("shared_qk",))
    assert seen == [value] * len(ROUNDS)


@pytest.mark.slow
def test_twice_the_same_byte_for_byte(compared):
    compared()
    first = TABLE.read_bytes()
    torch.manual_seed(99)
    compared()
    assert TABLE.read_bytes() == first
    compared("--batch_size", 5)
    assert TABLE.read_bytes() == first, "how sequences are put into batches changes nothing"


def test_n_test_and_batch_size(compared, monkeypatch):
    seen = []
    batches = comparison.evaluation_batches

    def watch(data, *, batch_size):
        seen.append((len(data), data.split, batch_size))
        return batches(data, batch_size=batch_size)

    monkeypatch.setattr(comparison, "evaluation_batches", watch)
    compared("--n_test", 7, "--batch_size", 3)
    assert set(seen) == {(7, "test", 3)}


def test_the_printed_table_says_what_the_file_says(compared):
    rows = compared()
    header, *lines = compared.out.splitlines()
    assert re.split(r"  +", header.strip()) == ["trained", "length", "eval full", *(f"eval LSH-{r}" for r in ROUNDS)]
    for name, line in zip(("shared_qk", "lsh"), lines, strict=False):
        cells = re.split(r"  +", line.strip())[2:]
        for way, cell in zip(("full", *(f"LSH-{r}" for r in ROUNDS)), cells, strict=True):
            ours, paper = re.fullmatch(r"([\d.]+)(?: \(([\d.]+)\))?", cell).groups()
            assert float(ours) == pytest.approx(float(rows[name, way]["accuracy"]), abs=0.0051)
            assert (paper or "") == rows[name, way]["paper"]


def test_the_papers_figures_stand_beside_ours(compared):
    """Table 2 of Kitaev et al. 2020 has no column for five rounds."""
    rows = compared()
    assert [rows["shared_qk", way]["paper"] for way in ("full", "LSH-5", "LSH-2", "LSH-1")] == [
        "100.0",
        "",
        "76.9",
        "52.5",
    ]
    assert [rows["lsh", way]["paper"] for way in ("full", "LSH-5", "LSH-2", "LSH-1")] == ["0.8", "", "98.1", "86.8"]


def test_the_papers_table():
    """Transcribed once more from the paper, columns full, 8, 4, 2, 1."""
    columns = ["full", "LSH-8", "LSH-4", "LSH-2", "LSH-1"]
    table = {
        "full": [100, 94.8, 92.5, 76.9, 52.5],
        "LSH-4": [0.8, 100, 99.9, 99.4, 91.9],
        "LSH-2": [0.8, 100, 99.9, 98.1, 86.8],
        "LSH-1": [0.8, 99.9, 99.6, 94.8, 77.9],
    }
    assert {row: [values[column] for column in columns] for row, values in PAPER.items()} == table


@pytest.mark.parametrize(("length", "shown"), [(1024, "98.95\n(76.9)"), (196, "98.95")])
def test_the_picture_has_the_papers_figures_beside_models_of_its_length_alone(length, shown):
    row = {"checkpoint": "m", "trained": "full", "length": str(length), "evaluated": "LSH-2"}
    figure = copies_figure([row | {"accuracy": "98.9512", "paper": "76.9"}])
    assert [text.get_text() for text in figure.axes[0].texts] == [shown]
    assert ("Kitaev" in figure.axes[0].get_title()) == (length == 1024)
    assert figure.axes[1].get_ylabel() == "accuracy (%)"


def test_a_checkpoint_folder_works_like_its_run(compared, script, trained):
    rows = compared(names=("lsh",))
    best = trained["lsh"] / "checkpoints" / "best"
    flags = ["--checkpoints", best, "--n_test", 12, "--eval_rounds", "2", "--output_dir", "other", "--device", "cpu"]
    assert script("synth_models_comparison", *flags).code == 0
    with Path("other/table.csv").open(newline="") as file:
        again = {row["evaluated"]: row["accuracy"] for row in csv.DictReader(file)}
    assert again == {way: rows["lsh", way]["accuracy"] for way in ("full", "LSH-2")}


def test_a_run_that_was_stopped_midway_can_be_compared(script):
    """best/ has weights then, and its configuration is still the run's."""
    tiny_yaml("c.yaml")
    assert script("synth_train", "--config", "c.yaml").code == 0
    Path("runs/tiny/version_0/checkpoints/best/config.yaml").unlink()
    flags = ["--checkpoints", "runs/tiny/version_0", "--n_test", 4, "--lsh.bucket_size", 3, "--output_dir", "out"]
    assert script("synth_models_comparison", *flags, "--device", "cpu").code == 0


def test_runs_that_are_not_there_and_how_they_are_made(script):
    """All are named; of a preset's runs, also the commands, which are such trainings."""
    presets = [f"paper/synth_{name}.yaml" for name in ("full", "lsh4", "lsh2", "lsh1")]
    runs = [f"runs/synth-1024-{name}/version_0" for name in ("full", "lsh-r4", "lsh-r2", "lsh-r1")]
    outcome = script("synth_models_comparison", "--checkpoints", ",".join(runs))
    assert_refused(
        outcome,
        [("checkpoints", run, "synth_train.py", preset) for run, preset in zip(runs, presets, strict=True)],
    )
    for preset, run in zip(presets, runs, strict=True):
        config = config_from(SynthTrainConfig, ["--config", preset], "synth_train.yaml")
        assert run == f"{config.runs_dir}/{config.experiment_name}/version_0"
    flags = ("--checkpoints", "nothing,runs/lm-demo/version_0")
    assert_refused(script("synth_models_comparison", *flags), [("checkpoints", "nothing"), ("checkpoints", "lm-demo")])


def test_every_setting_of_the_comparison_is_tried_here():
    fields = {"checkpoints", "eval_rounds", "lsh", "n_test", "batch_size", "device", "output_dir"}
    assert set(SynthComparisonConfig.model_fields) == fields
