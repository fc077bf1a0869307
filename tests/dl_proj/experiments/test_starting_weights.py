"""Weights to start from, in all five trainings: which are taken, which are listed, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from matplotlib.figure import Figure
from safetensors.torch import load_file, save_file
from tiny_scripts import (
    TEXT,
    as_yaml,
    assert_refused,
    assert_states,
    saved_tensors,
    tiny,
    tiny_classifier,
    tiny_generator,
    tiny_language,
    tiny_translation,
    write_pairs,
)

from dl_proj.checkpoint_folder import SHIPPED
from dl_proj.experiments.copy.objective import CopyObjective
from my_custom_ai.custom_train.checkpoint import load_note

STILL = ["--optimizer.lr", "1e-30", "--train.max_steps", "1"]  # the best weights are then those of the start
BPE = {"data.tokenizer": {"kind": "bpe", "vocab_size": 300}, "data.window": 8}
TRAININGS = {
    "copy": ("synth_train", tiny()),
    "classification": ("cls_train", tiny_classifier({"model.attention": {"kind": "lsh", "bucket_size": 2}})),
    "generation": ("generation_train", tiny_generator({"model.attention": {"kind": "performer"}})),
    "language, bytes": ("lm_train", tiny_language({"model.tied": True})),
    "language, subwords": ("lm_train", tiny_language(BPE | {"objective.kind": "masked"})),
    "translation": ("translation_train", tiny_translation()),
}


@pytest.fixture(autouse=True)
def texts_without_pictures(monkeypatch):
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **settings: Path(path).touch())
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    write_pairs()


def trained(script, name, config):
    """A finished run's folder."""
    outcome = script(name, "--config", as_yaml("c.yaml", config), "--train.trackers", "[]")
    assert outcome.code == 0, outcome.lines
    return Path("runs") / config["experiment_name"] / "version_0"


def best(run):
    return load_file(Path(run) / "checkpoints/best/model.safetensors")


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.allclose(found[name], expected[name], atol=1e-20)] == []


@pytest.mark.parametrize("training", TRAININGS)
def test_a_run_starts_from_anothers_weights_and_settings(training, script):
    """Its tokenizer too: the other text would give other subwords."""
    name, config = TRAININGS[training]
    run = trained(script, name, config)
    Path("text.txt").write_text(TEXT.replace("owl", "mole").replace("sat", "stood"), encoding="utf-8")
    outcome = script(name, "--init_from", run, "--seed", "7", *STILL)
    assert outcome.code == 0, outcome.lines
    tuned = Path(f"runs/{config['experiment_name']}-tuned/version_0")
    assert f"weights of {run}\n" in outcome.out
    assert_close(best(tuned), best(run))
    settings = yaml.safe_load((tuned / "config.yaml").read_text())
    assert (settings["init_from"], settings["init_strict"]) == (str(run), True)
    assert settings["model"] == yaml.safe_load((run / "config.yaml").read_text())["model"]
    for tokenizer in run.glob("*tokenizer.json"):
        assert (tuned / tokenizer.name).read_bytes() == tokenizer.read_bytes()


def test_a_run_that_starts_from_a_tuned_one(script):
    """It has the ending of the name once, and is neither where that one is nor as lenient."""
    run = trained(script, "synth_train", tiny())
    flags = ["--runs_dir", "elsewhere", "--init_strict", "false", *STILL]
    assert script("synth_train", "--init_from", run, *flags).code == 0
    assert script("synth_train", "--init_from", "elsewhere/tiny-tuned/version_0", *STILL).code == 0
    tuned = Path("runs/tiny-tuned/version_0")
    assert_close(best(tuned), best(run))
    assert yaml.safe_load((tuned / "config.yaml").read_text())["init_strict"] is True


def test_what_agrees_is_taken_and_the_rest_listed(script):
    run = trained(script, "cls_train", tiny_classifier({"data.labels": ["1", "2", "3"]}))
    flags = ["--init_from", run, "--data.labels", "[4,5]"]
    outcome = script("cls_train", *flags, *STILL)
    assert_refused(outcome, [("init_from", str(run / "checkpoints/best"), "to_logits.weight", 3, 2, "--init_strict")])
    outcome = script("cls_train", *flags, "--init_strict", "false", *STILL)
    assert outcome.code == 0, outcome.lines
    said = outcome.out.splitlines()
    assert [line.split()[0] for line in said[1:3]] == ["to_logits.weight", "to_logits.bias"]
    assert_states(said[0], "weights", str(run))
    theirs, ours = best(run), best("runs/tiny-cls-tuned/version_0")
    assert {name for name in ours if ours[name].shape != theirs[name].shape} == {"to_logits.weight", "to_logits.bias"}
    rest = ours.keys() - {"to_logits.weight", "to_logits.bias"}
    assert_close({name: ours[name] for name in rest}, {name: theirs[name] for name in rest})


def test_positions_of_a_longer_sequence_are_cut(script):
    run = trained(script, "synth_train", tiny())
    outcome = script("synth_train", "--init_from", run, "--data.length", "8", *STILL)
    assert outcome.code == 0, outcome.lines
    assert_states(outcome.out.splitlines()[1].strip(), "positions.weight", 7, 11)
    theirs, ours = best(run), best("runs/tiny-tuned/version_0")
    assert_close(ours, theirs | {"positions.weight": theirs["positions.weight"][:7]})


def test_axial_positions_lose_rows_and_keep_columns(script):
    axial = {"model.positions": {"kind": "axial", "shape": [3, 4]}}
    run = trained(script, "synth_train", tiny(axial))
    flags = ["--data.length", "9", "--model.positions.shape"]
    assert script("synth_train", "--init_from", run, *flags, "2,4", *STILL).code == 0
    theirs, ours = best(run), best("runs/tiny-tuned/version_0")
    assert_close(ours, theirs | {"positions.rows": theirs["positions.rows"][:2]})
    outcome = script("synth_train", "--init_from", run, *flags, "3,3", *STILL)
    assert_refused(outcome, [("init_from", "positions.columns", "--init_strict")])


OTHER_LENGTHS = {
    "longer": ("synth_train", tiny(), ["--data.length", "16"], (11, 15, "data.length")),
    "a smaller grid": ("cls_train", tiny_classifier(), ["--data.image_size", "4"], (4, 1, "data.image_size")),
    "a larger grid": ("generation_train", tiny_generator(), ["--data.max_len", "25"], (16, 25, "data.max_len")),
}


@pytest.mark.parametrize("case", OTHER_LENGTHS)
def test_positions_that_cannot_be_cut(case, script):
    name, config, flags, facts = OTHER_LENGTHS[case]
    run = trained(script, name, config)
    outcome = script(name, "--init_from", run, *flags, *STILL)
    assert_refused(outcome, [("init_from", str(run), "positions.weight", *facts, "--init_strict")])
    assert not Path(f"{run.parent}-tuned").exists()
    outcome = script(name, "--init_from", run, *flags, "--init_strict", "false", *STILL)
    assert outcome.code == 0, outcome.lines
    assert outcome.out.splitlines()[1].split()[0] == "positions.weight"


def test_another_file_gives_the_settings_where_one_is_named(script):
    """Weights without a configuration, of a compiled model, then suffice."""
    run = trained(script, "synth_train", tiny())
    theirs = best(run)
    Path("bare").mkdir()
    save_file({f"_orig_mod.{name}": tensor for name, tensor in theirs.items()}, "bare/model.safetensors")
    as_yaml("other.yaml", tiny({"experiment_name": "other", "init_from": "bare", "train.trackers": []}))
    assert script("synth_train", "--config", "other.yaml", *STILL).code == 0
    assert_close(best("runs/other/version_0"), theirs)


def test_what_cannot_be_started_from(script):
    run = trained(script, "synth_train", tiny())
    before = {path.name for path in Path("runs").iterdir()}
    as_yaml("c.yaml", tiny({"model.dim": 24}))
    file = ["--config", "c.yaml"]
    cases = [
        (["--init_from", "no-such"], [("flags: init_from", "'no-such'", "mnist-cls-full")]),
        ([*file, "--init_from", "no-such"], [("init_from", "'no-such'")]),
        (["--init_from", "mnist-cls-full"], [(f"{shipped('mnist-cls-full')}: task", "'copy'", "'classification'")]),
        ([*file, "--init_from", "mnist-cls-full"], [(f"{shipped('mnist-cls-full')}: task", "'copy'")]),
        ([*file, "--init_from", run], [("init_from", str(run / "checkpoints/best"), "embedding.weight", 16, 24)]),
        ([*file, "--init_strict", "false"], [("c.yaml and flags: init_strict", False, "init_from")]),
    ]
    for flags, expected in cases:
        assert_refused(script("synth_train", *flags), expected)
    assert {path.name for path in Path("runs").iterdir()} == before


def shipped(name):
    return SHIPPED / name / "config.yaml"


@pytest.mark.parametrize("training", ["language, bytes", "translation"])
def test_a_run_goes_on_without_the_checkpoint_that_it_started_from(training, script):
    name, config = TRAININGS[training]
    run = trained(script, name, config)
    assert script(name, "--init_from", run, *STILL).code == 0
    run.parent.rename("gone")
    tuned = Path(f"{run.parent}-tuned/version_0")
    assert script(name, "--resume", tuned, "--train.max_steps", "2").code == 0
    assert load_note(tuned / "checkpoints/last/state.safetensors")["step"] == 2
    assert script("evaluate", "--checkpoint", tuned, "--device", "cpu").code == 0


@pytest.mark.parametrize("training", ["language, subwords", "translation"])
def test_other_tokens_are_refused_or_learnt(training, script):
    name, config = TRAININGS[training]
    run = trained(script, name, config)
    flags = ["--init_from", run, "--data.tokenizer.vocab_size", "290"]
    outcome = script(name, *flags, *STILL)
    assert_refused(outcome, [("data.tokenizer", 290, str(run), "--init_strict")])
    outcome = script(name, *flags, "--init_strict", "false", *STILL)
    assert outcome.code == 0, outcome.lines
    tuned = Path(f"{run.parent}-tuned/version_0")
    sizes = [len(json.loads((r / "tokenizer.json").read_text())["model"]["vocab"]) for r in (run, tuned)]
    assert sizes[1] == 290 != sizes[0]


def test_a_start_that_was_interrupted_before_its_first_save(script, monkeypatch):
    """The same flags with --resume last go on from the same weights."""
    run = trained(script, "synth_train", tiny({"model.dropout": 0.1}))
    flags = ["--init_from", run, "--seed", "3"]
    assert script("synth_train", *flags).code == 0
    whole = saved_tensors(Path("runs/tiny-tuned/version_0"))
    Path("runs/tiny-tuned").rename("whole")

    def interrupted(self, model, batch):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(CopyObjective, "measure", interrupted)
        assert script("synth_train", *flags).code == 130
    assert not Path("runs/tiny-tuned/version_0/checkpoints").exists()
    assert script("synth_train", *flags, "--resume", "last").code == 0
    found = saved_tensors(Path("runs/tiny-tuned/version_0"))
    assert [name for name in whole if not torch.equal(whole[name], found[name])] == []
    outcome = script("synth_train", "--resume", "runs/tiny-tuned/version_0", "--init_from", "synth-gen-full")
    assert_refused(outcome, [("--resume: runs/tiny-tuned/version_0/config.yaml: init_from", "'synth-gen-full'")])
