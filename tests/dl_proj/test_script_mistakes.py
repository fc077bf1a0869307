"""A user's mistakes: exit code 2 and one line each, that says where, which key, what is allowed and what came."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from tiny_scripts import GONE, TINY, assert_refused, files_below, tiny, tiny_yaml

from dl_proj.cli import CONFIGS
from dl_proj.experiments.copy.settings import SynthTrainConfig

ROOT = Path(__file__).parents[2]
FILE, BOTH = "c.yaml: ", "c.yaml and flags: "


def lsh(**settings):
    return {"model.attention": {"kind": "lsh", "bucket_size": 4, **settings}}


# (changes to the tiny file, what each line says after "c.yaml: "): the key first, then the rest in any place
WRONG_SETTINGS = {
    "unknown at the top": ({"sede": 1}, [("sede:", "no such setting", "did you mean seed", "train", "got 1")]),
    "unknown in a section": ({"model.dimm": 8}, [("model.dimm:", "did you mean dim;", "got 8")]),
    "unknown two levels down": ({"train.monitor.metrics": "x"}, [("train.monitor.metrics:", "did you mean metric;")]),
    "unknown in a union": (lsh(n_round=2), [("model.attention.n_round:", "did you mean n_rounds;", "got 2")]),
    "unknown, like nothing": ({"data.zzz": [1]}, [("data.zzz:", "no such setting; there are: vocab_size,", "got [1]")]),
    "three at once": (
        {"sede": 1, "model.dim": "x", "optimizer.lr": -1},
        [("optimizer.lr:", "greater than 0", "got -1"), ("model.dim:", "whole number", "got 'x'"), ("sede:",)],
    ),
    "needed and missing": ({"experiment_name": GONE}, [("experiment_name:", "needed")]),
    "a needed section": ({"train": GONE}, [("train:", "needed")]),
    "needed by a kind": ({"model.positions": {"kind": "axial"}}, [("model.positions.shape:", "needed")]),
    "unknown kind": (
        {"model.attention": {"kind": "lhs"}},
        [("model.attention.kind:", "'full', 'shared_qk', 'lsh'", "got 'lhs'")],
    ),
    "a kind that is a list": ({"schedule": {"kind": ["noam"]}}, [("schedule.kind:", "'constant'", "got ['noam']")]),
    "no kind": (
        {"model.attention": {"n_rounds": 2}},
        [("model.attention.kind:", "needed", "'full', 'shared_qk', 'lsh'")],
    ),
    "another kind's key": (
        {"model.attention": {"kind": "full", "n_rounds": 4}},
        [("model.attention.n_rounds:", "no such setting; there are: dropout, kind", "got 4")],
    ),
    "another schedule's key": (
        {"schedule": {"kind": "one_cycle", "warmup_steps": 2}},
        [("schedule.warmup_steps:", "no such setting", "warmup_share", "got 2")],
    ),
    "a word for a whole number": ({"model.dim": "eight"}, [("model.dim:", "whole number", "got 'eight'")]),
    "a fraction for a whole number": ({"model.dim": 8.5}, [("model.dim:", "whole number", "got 8.5")]),
    "true for a whole number": ({"model.dim": True}, [("model.dim:", "whole number", "got 'true'")]),
    "nothing for a whole number": ({"model.dim": None}, [("model.dim:", "whole number", "got null")]),
    "a list for a number": ({"optimizer.lr": [0.1]}, [("optimizer.lr:", "number", "got [0.1]")]),
    "a word for a number": ({"optimizer.lr": "fast"}, [("optimizer.lr:", "number", "got 'fast'")]),
    "false for a number": ({"model.dropout": False}, [("model.dropout:", "number", "got 'false'")]),
    "nan": ({"model.dropout": float("nan")}, [("model.dropout:", "finite", "got nan")]),
    "inf": ({"optimizer.lr": float("inf")}, [("optimizer.lr:", "finite", "got inf")]),
    "a word for true": ({"model.reversible": "maybe"}, [("model.reversible:", "true or false", "got 'maybe'")]),
    "a number for text": ({"experiment_name": 7}, [("experiment_name:", "string", "got 7")]),
    "a word for a list": ({"train.trackers": "tensorboard"}, [("train.trackers:", "list", "got 'tensorboard'")]),
    "a wrong word in a list": (
        {"train.trackers": ["tensorboard", "mlflow"]},
        [("train.trackers.1:", "'tensorboard' or 'wandb'", "got 'mlflow'")],
    ),
    "a number for a pair": ({"optimizer.betas": 0.9}, [("optimizer.betas:", "list", "got 0.9")]),
    "half a pair": ({"optimizer.betas": [0.9]}, [("optimizer.betas.1:", "needed")]),
    "true in a pair": ({"optimizer.betas": [True, 0.9]}, [("optimizer.betas.0:", "number", "got 'true'")]),
    "a pair out of range": ({"optimizer.betas": [0.9, 1.0]}, [("optimizer.betas.1:", "less than 1", "got 1.0")]),
    "a word for a number or null": ({"model.head_dim": "auto"}, [("model.head_dim:", "whole number", "got 'auto'")]),
    "a number for a path": ({"runs_dir": 3}, [("runs_dir:", "path", "got 3")]),
    "a word for a section": ({"model.attention": "lsh"}, [("model.attention:", "mapping", "got 'lsh'")]),
    "a section left empty": ({"optimizer": None}, [("optimizer:", "mapping", "got null")]),
    "a word out of a list": ({"model.norm": "rms"}, [("model.norm:", "'pre' or 'post'", "got 'rms'")]),
    "at least 1": ({"model.depth": 0}, [("model.depth:", "greater than or equal to 1", "got 0")]),
    "at least 0": ({"seed": -1}, [("seed:", "greater than or equal to 0", "got -1")]),
    "less than 2 to the 31": ({"seed": 2**31}, [("seed:", "less than 2147483648", "got 2147483648")]),
    "less than 1": ({"model.dropout": 1.0}, [("model.dropout:", "less than 1", "got 1.0")]),
    "more than 0": ({"optimizer.eps": 0}, [("optimizer.eps:", "greater than 0", "got 0")]),
    "at most 1": ({"data.corruption": 1.5}, [("data.corruption:", "less than or equal to 1", "got 1.5")]),
    "a name with a slash": ({"experiment_name": "a/b"}, [("experiment_name:", "A-Za-z0-9", "got 'a/b'")]),
    "a name above its folder": ({"experiment_name": ".."}, [("experiment_name:", "A-Za-z0-9", "got '..'")]),
    "dim and heads": ({"model.heads": 3}, [("model:", "dim 16", "heads 3", "head_dim")]),
    "reversible and post-norm": (
        {"model.reversible": True, "model.norm": "post"},
        [("model:", "reversible", "norm: pre", "norm: post")],
    ),
    "a bucket for all": (
        {"model.attention": {"kind": "lsh"}},
        [("model.attention.bucket_size 28", "11 tokens", "shared_qk")],
    ),
    "odd n_buckets": (lsh(n_buckets=3), [("model.attention:", "n_buckets 3", "even")]),
    "across buckets by the bucket rule": (
        lsh(attend_across_buckets=True),
        [("model.attention:", "attend_across_buckets", "rule: chunk", "got 'bucket'")],
    ),
    "two rules of one section": (
        lsh(n_buckets=5, attend_across_buckets=True),
        [("model.attention:", "n_buckets 5"), ("model.attention:", "attend_across_buckets")],
    ),
    "too few positions": (
        {"model.positions": {"kind": "axial", "shape": [2, 5]}},
        [("model.positions.shape 2 x 5", "11 tokens")],
    ),
    "no length of training": ({"train.max_steps": GONE}, [("train:", "max_steps or epochs")]),
    "two lengths of training": ({"train.epochs": 2}, [("train:", "max_steps 3", "epochs 2")]),
    "warm-up as long as training": (
        {"schedule": {"kind": "warmup_cosine", "warmup_steps": 3}},
        [("schedule.warmup_steps 3", "less than", "3 steps")],
    ),
    "warm-up longer than the epochs": (
        {"schedule": {"kind": "constant", "warmup_steps": 99}, "train.max_steps": GONE, "train.epochs": 2},
        [("schedule.warmup_steps 99", "less than", "16 steps")],
    ),
    "unknown metric": (
        {"train.monitor": {"metric": "val/acc"}},
        [("train.monitor.metric 'val/acc'", "val/loss or val/accuracy")],
    ),
    "the metric's wrong way": (
        {"train.monitor": {"metric": "val/accuracy"}},
        [("train.monitor.mode min", "must be max", "val/accuracy")],
    ),
    "a batch of more than all": ({"train.batch_size": 65}, [("train.batch_size 65", "data.n_train 64")]),
    "three rules of the whole": (
        {"train.batch_size": 65, "train.monitor": {"metric": "x"}, "model.attention": {"kind": "lsh"}},
        [("model.attention.bucket_size 28",), ("train.monitor.metric 'x'",), ("train.batch_size 65",)],
    ),
    "more words than there are": (
        {"data.vocab_size": 3, "data.n_val": 1, "data.n_test": 1},
        [("data:", "n_train 64", "vocab_size 3", "32 words", "take 12")],
    ),
    "more words of each split": (
        {"data.vocab_size": 3, "data.n_val": 9},
        [("data:", "n_train 64"), ("data:", "n_val 9"), ("data:", "n_test 16")],
    ),
}


@pytest.mark.parametrize("case", WRONG_SETTINGS)
def test_a_wrong_setting_in_the_file(case, script):
    changes, expected = WRONG_SETTINGS[case]
    tiny_yaml("c.yaml", changes)
    assert_refused(script("synth_train", "--config", "c.yaml"), [(FILE + e[0], *e[1:]) for e in expected])
    assert files_below(".") == {"c.yaml"}, "found before anything is made"


# what stands in the file, the beginning of the line, what else it says
WRONG_FILES = {
    "empty": ("", FILE, "empty", "key: value"),
    "comments only": ("# nothing\n", FILE, "empty", "key: value"),
    "a list": ("- a\n- b\n", FILE, "key: value", "['a', 'b']"),
    "a word": ("lsh\n", FILE, "key: value", "'lsh'"),
    "a key twice": ("seed: 1\ntrain:\n  epochs: 1\nseed: 2\n", "c.yaml:4: ", "'seed'", "twice"),
    "a key twice further down": ("train:\n  epochs: 1\n  epochs: 2\n", "c.yaml:3: ", "'epochs'", "twice"),
    "a bracket left open": ("seed: 1\ntrain: {epochs: 1\n", "c.yaml:3: ", "not valid YAML"),
    "a tab": ("train:\n\tepochs: 1\n", "c.yaml:2: ", "not valid YAML", "\\t"),
    "a list as a key": ("seed: 1\n? [a, b]\n: 2\n", "c.yaml:2: ", "key must be a word"),
    "an alias of nothing": ("seed: *other\n", "c.yaml:1: ", "other"),
    "an object": ("seed: !!python/object/apply:os.getpid []\n", "c.yaml:1: ", "not valid YAML", "python"),
    "a month that is none": ("experiment_name: 2024-13-01\n", FILE, "not valid YAML", "month"),
    "two documents": ("seed: 1\n---\nseed: 2\n", "c.yaml:2: ", "another document"),
    "brackets without end": ("seed: " + 2000 * "[", FILE, "not valid YAML"),
    "not text": (b"\xff\xfe\x00\x80", FILE, "UTF-8"),
    "a zero byte": (b"seed: \x00", FILE, "not valid YAML", "special characters"),
    "weights instead": (b"\x08\x00\x00\x00\x00\x00\x00\x00{}", FILE, "not valid YAML"),
}


@pytest.mark.parametrize("name", ["synth_train", "synth_models_comparison"])
@pytest.mark.parametrize("case", WRONG_FILES)
def test_a_file_that_is_no_configuration(case, name, script):
    content, start, *parts = WRONG_FILES[case]
    Path("c.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert_refused(script(name, "--config", "c.yaml"), [(start, *parts)])


@pytest.mark.parametrize("name", ["synth_train", "synth_models_comparison"])
def test_a_file_that_is_not_there_or_a_folder(name, script):
    assert_refused(script(name, "--config", "none.yaml"), [("none.yaml: ", "no such file")])
    Path("folder.yaml").mkdir()
    assert_refused(script(name, "--config", "folder.yaml"), [("folder.yaml: ", "directory")])


# flags after --config c.yaml, then the lines
WRONG_FLAGS = {
    "unknown": (["--model.dimm", "8"], [("flags: --model.dimm:", "no such flag", "did you mean --model.dim;")]),
    "unknown with =": (["--sead=8"], [("flags: --sead:", "did you mean --seed;")]),
    "two unknown": (["--zzzz", "1", "--sead", "2"], [("flags: --zzzz:", "no such flag; see"), ("flags: --sead:",)]),
    "abbreviated": (["--model.he", "2"], [("flags: --model.he:", "no such flag")]),
    "--conf": (["--conf", "other.yaml"], [("flags: --conf:", "did you mean --config;")]),
    "--res": (["--res", "last"], [("flags: --res:", "no such flag")]),
    "not a flag": (["dim", "8"], [("flags: dim:", "no such flag")]),
    "one dash": (["-seed"], [("flags: -seed:", "no such flag")]),
    "no value": (["--model.dim"], [("flags: --model.dim:", "expected one argument")]),
    "no value before another": (["--seed", "--model.dim", "8"], [("flags: --seed:", "expected one argument")]),
    "--config without a file": (["--config"], [("flags: --config:", "expected one argument")]),
    "a bool is given its value": (["--model.reversible"], [("flags: --model.reversible:", "expected one argument")]),
    "a word for a number": (["--model.dim", "eight"], [("flags: model.dim:", "whole number", "got 'eight'")]),
    "true for a number": (["--model.dim", "true"], [("flags: model.dim:", "whole number", "got 'true'")]),
    "true in JSON for a number": (["--model", '{"dim": true}'], [("flags: model.dim:", "got 'true'")]),
    "negative": (["--seed", "-1"], [("flags: seed:", "greater than or equal to 0", "got '-1'")]),
    "nan": (["--optimizer.lr", "nan"], [("flags: optimizer.lr:", "finite", "got 'nan'")]),
    "a pair of words": (
        ["--optimizer.betas", "a,b"],
        [("flags: optimizer.betas.0:", "number", "'a'"), ("flags: optimizer.betas.1:", "number", "'b'")],
    ),
    "half a pair": (["--optimizer.betas", "0.9"], [("flags: optimizer.betas.1:", "needed")]),
    "a list left open": (
        ["--optimizer.betas", "[0.9"],
        [("flags: --optimizer.betas:", "not valid JSON", "got '[0.9'")],
    ),
    "invalid JSON": (
        ["--seed", "1", "--optimizer", '{"lr": 1'],
        [("flags: --optimizer:", "not valid JSON", '{"lr": 1')],
    ),
    "invalid JSON further down": (["--train.monitor", "{"], [("flags: --train.monitor:", "not valid JSON", "got '{'")]),
    "a slash in the name": (["--experiment_name", "a/b"], [("flags: experiment_name:", "A-Za-z0-9", "got 'a/b'")]),
    "an unknown kind": (["--schedule.kind", "cosine"], [("flags: schedule.kind:", "'warmup_cosine'", "got 'cosine'")]),
    "another kind's key": (
        ["--model.attention.n_rounds", "8"],
        [("flags: model.attention.n_rounds:", "no such setting; there are: dropout, kind", "got '8'")],
    ),
    "a key of a kind that nobody names": (
        ["--schedule.warmup_steps", "1"],
        [(BOTH + "schedule.kind:", "needed", "'constant'")],
    ),
    "a kind that needs more": (
        ["--model.positions.kind", "axial"],
        [(BOTH + "model.positions.shape:", "needed")],
    ),
    "against the file": (["--model.heads", "3"], [(BOTH + "model:", "dim 16", "heads 3")]),
    "against the file, over sections": (
        ["--data.length", "14"],
        [("c.yaml and flags: model.positions.shape 3 x 4", "13 tokens")],
    ),
    "epochs besides the file's steps": (["--train.epochs", "1"], [(BOTH + "train:", "epochs 1", "null")]),
    "the file is wrong, a flag is not": (
        ["--seed", "1", "--data.corruption", "0.5"],
        [("c.yaml: optimizer.lr:", "number", "'fast'")],
    ),
}


@pytest.mark.parametrize("case", WRONG_FLAGS)
def test_a_wrong_flag(case, script):
    flags, expected = WRONG_FLAGS[case]
    changes = {"optimizer.lr": "fast"} if case == "the file is wrong, a flag is not" else {}
    changes |= {"model.positions": {"kind": "axial", "shape": [3, 4]}} if case.endswith("over sections") else {}
    tiny_yaml("c.yaml", changes)
    assert_refused(script("synth_train", "--config", "c.yaml", *flags), expected)
    assert files_below(".") == {"c.yaml"}


def test_the_tiny_configuration_itself_is_right():
    """Or every case above could fail for a reason of its own."""
    SynthTrainConfig.model_validate(TINY)
    for changes in (lsh(), {"train.max_steps": GONE, "train.epochs": 2}, {"model.positions": {"kind": "sinusoidal"}}):
        SynthTrainConfig.model_validate(tiny(changes))


# -- what this machine lacks --


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_here(script, trained):
    tiny_yaml("c.yaml", {"train.device": "cuda"})
    expected = [("device 'cuda' is not on this machine", "cpu")]
    assert_refused(script("synth_train", "--config", "c.yaml"), expected)
    flags = ["--checkpoints", trained["shared_qk"], "--lsh.bucket_size", "3", "--device", "cuda"]
    assert_refused(script("synth_models_comparison", *flags), expected)


def test_half_precision_on_a_cpu(script):
    tiny_yaml("c.yaml", {"train.precision": "fp16"})
    assert_refused(script("synth_train", "--config", "c.yaml"), [("precision 'fp16'", "GPU", "'bf16'")])
    assert files_below(".") == {"c.yaml"}


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_a_tracker_that_is_not_installed(script):
    tiny_yaml("c.yaml", {"train.trackers": ["tensorboard", "wandb"]})
    assert_refused(script("synth_train", "--config", "c.yaml"), [("tracker 'wandb'", "pip install wandb")])
    assert files_below(".") == {"c.yaml"}


def test_runs_where_no_folder_can_be(script):
    tiny_yaml("c.yaml", {"runs_dir": "c.yaml"})
    assert_refused(script("synth_train", "--config", "c.yaml"), [("runs_dir: ", "no folder", "c.yaml")])


def test_too_few_examples_for_all_processes(monkeypatch, script):
    monkeypatch.setattr(Accelerator, "num_processes", 9)
    tiny_yaml("c.yaml")
    expected = [("train.batch_size: 8 on each of 9 processes", "64 training examples")]
    assert_refused(script("synth_train", "--config", "c.yaml"), expected)
    assert files_below(".") == {"c.yaml"}


# -- resuming --


def test_resuming_what_is_no_run(script, trained):
    tiny_yaml("c.yaml")
    for folder in ("nowhere", "c.yaml", trained["shared_qk"] / "checkpoints"):
        assert_refused(script("synth_train", "--resume", folder), [("--resume: ", str(folder), "config.yaml")])


def test_resuming_the_last_of_none(script):
    tiny_yaml("c.yaml")
    assert_refused(script("synth_train", "--config", "c.yaml", "--resume", "last"), [("--resume: runs/tiny", "no run")])


def test_resuming_is_for_trainings(script):
    assert_refused(script("synth_models_comparison", "--resume", "last"), [("flags: --resume:", "no such flag")])


CHANGES = {
    "seed": (["--seed", "7"], [("seed:", "42", "7")]),
    "two settings": (
        ["--model.dropout", "0.5", "--optimizer.lr", "1"],
        [("optimizer.lr:", "0.01", "1.0"), ("model.dropout:", "0.0", "0.5")],
    ),
    "the kind": (["--model.attention.kind", "full"], [("model.attention.kind:", "'shared_qk'", "'full'")]),
    "longer": (["--train.max_steps", "4"], [("train.max_steps:", "3", "4")]),
    "another file": (["--config", "other.yaml"], [("data.vocab_size:", "8", "9")]),
}


@pytest.mark.parametrize("case", CHANGES)
def test_resuming_with_other_settings(case, script, trained):
    flags, expected = CHANGES[case]
    run = trained["shared_qk"]
    tiny_yaml("other.yaml", {"experiment_name": "shared_qk", "data.vocab_size": 9})
    before = files_below(run)
    lines = [(f"--resume: {run}/config.yaml: {start}", *parts, "new run") for start, *parts in expected]
    assert_refused(script("synth_train", "--resume", run, *flags), lines)
    assert files_below(run) == before


def cut_in_half(path):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


SPOILERS = {
    "truncated": (cut_in_half, "not a whole safetensors file"),
    "empty": (lambda path: path.write_bytes(b""), "not a whole safetensors file"),
    "a pickle": (lambda path: torch.save({"a": torch.zeros(3)}, path), "not a whole safetensors file"),
    "text": (lambda path: path.write_text("weights, honestly\n" * 9), "not a whole safetensors file"),
}


@pytest.mark.parametrize("case", SPOILERS)
def test_resuming_a_spoilt_state(case, script, trained):
    spoil, message = SPOILERS[case]
    state = trained["shared_qk"] / "checkpoints" / "last" / "state.safetensors"
    spoil(state)
    assert_refused(script("synth_train", "--resume", trained["shared_qk"]), [(f"{state}: ", message)])


def test_resuming_the_state_of_another_model(script, trained):
    state = trained["shared_qk"] / "checkpoints" / "last" / "state.safetensors"
    shutil.copy(trained["wider"] / "checkpoints" / "last" / "state.safetensors", state)
    outcome = script("synth_train", "--resume", trained["shared_qk"])
    assert_refused(outcome, [(f"{state}: ", "another model", "embedding.weight is (8, 24), the model's is (8, 16)")])


def test_resuming_somebody_elses_safetensors(script, trained):
    state = trained["shared_qk"] / "checkpoints" / "last" / "state.safetensors"
    save_file({"wte": torch.zeros(3)}, state)
    assert_refused(script("synth_train", "--resume", trained["shared_qk"]), [(f"{state}: ", "no training to continue")])
    save_file({"wte": torch.zeros(3)}, state, metadata={"note": "[1]"})
    assert_refused(script("synth_train", "--resume", trained["shared_qk"]), [(f"{state}: ", "note is no mapping")])


@pytest.mark.parametrize("text", ["once,upon\na,time\n", "step\nmany\n"])
def test_resuming_with_a_spoilt_history(text, script, trained):
    history = trained["shared_qk"] / "metrics.csv"
    history.write_text(text)
    assert_refused(script("synth_train", "--resume", trained["shared_qk"]), [(f"{history}: not a history", "step")])


def test_resuming_a_run_whose_configuration_is_broken(script, trained):
    config = trained["shared_qk"] / "config.yaml"
    config.write_text("seed: [1")
    assert_refused(script("synth_train", "--resume", trained["shared_qk"]), [(f"{config}:1: ", "not valid YAML")])


# -- comparing --

COMPARISON_FLAGS = {
    "no rounds": (["--eval_rounds", "0"], [("flags: eval_rounds.0:", "greater than or equal to 1", "got 0")]),
    "half a round": (["--eval_rounds", "2,1.5"], [("flags: eval_rounds.1:", "whole number", "got 1.5")]),
    "no columns": (["--eval_rounds", "[]"], [("c.yaml and flags: eval_rounds", "empty")]),
    "no rows": (["--checkpoints", "[]"], [("c.yaml and flags: checkpoints", "empty")]),
    "a row without a name": (["--checkpoints", ""], [("flags: checkpoints.0:", "got ''")]),
    "no sequences": (["--n_test", "0"], [("flags: n_test:", "greater than or equal to 1", "got '0'")]),
    "an unknown device": (["--device", "tpu"], [("flags: device:", "'auto', 'cuda', 'mps' or 'cpu'", "got 'tpu'")]),
    "other attention": (["--lsh.kind", "full"], [("flags: lsh.kind:", "'lsh'", "got 'full'")]),
    "odd buckets": (["--lsh.n_buckets", "3"], [("c.yaml and flags: lsh:", "n_buckets 3", "even")]),
    "rounds in the wrong place": (["--lsh.eval_rounds", "3"], [("c.yaml and flags: lsh.eval_rounds 3", "eval_rounds")]),
    "what is for training": (
        ["--lsh.n_rounds", "2", "--lsh.dropout", "0.5", "--lsh.fresh_rotations", "false"],
        [
            ("c.yaml and flags: lsh.n_rounds 2 has no effect", "eval_rounds"),
            ("c.yaml and flags: lsh.dropout 0.5 has no effect",),
            ("c.yaml and flags: lsh.fresh_rotations False has no effect",),
        ],
    ),
    "an unknown setting": (["--lsh.rounds", "3"], [("flags: --lsh.rounds:", "no such flag", "--lsh.n_rounds")]),
}


@pytest.mark.parametrize("case", COMPARISON_FLAGS)
def test_a_wrong_flag_of_the_comparison(case, script):
    flags, expected = COMPARISON_FLAGS[case]
    Path("c.yaml").write_text("checkpoints: [a]\n")
    assert_refused(script("synth_models_comparison", "--config", "c.yaml", *flags), expected)
    assert files_below(".") == {"c.yaml"}


def test_a_wrong_setting_of_the_comparison(script):
    Path("c.yaml").write_text("chekpoints: [a]\nlsh: {kind: lsh, bucketsize: 3}\n")
    expected = [("c.yaml: checkpoints:", "needed"), ("c.yaml: lsh.bucketsize:", "did you mean bucket_size")]
    expected += [("c.yaml: chekpoints:", "did you mean checkpoints")]
    assert_refused(script("synth_models_comparison", "--config", "c.yaml"), expected)


def refused_comparison(script, expected, *checkpoints):
    flags = ["--checkpoints", ",".join(map(str, checkpoints)), "--n_test", "4", "--lsh.bucket_size", "2"]
    before = files_below(".")
    assert_refused(script("synth_models_comparison", *flags, "--device", "cpu"), expected)
    assert files_below(".") == before


def test_comparing_a_checkpoint_that_is_none(script, trained):
    expected = [("'synth-gen-fool'", "neither", "shipped checkpoints: ")]
    refused_comparison(script, expected, trained["shared_qk"], "synth-gen-fool")
    refused_comparison(script, [("'runs/shared_qk'", "neither")], "runs/shared_qk")


@pytest.mark.parametrize("case", SPOILERS)
def test_comparing_spoilt_weights(case, script, trained):
    """The good one before it is not evaluated first: a user should not wait for a mistake."""
    spoil, message = SPOILERS[case]
    weights = trained["lsh"] / "checkpoints" / "best" / "model.safetensors"
    spoil(weights)
    refused_comparison(script, [(f"{weights}: ", message)], trained["shared_qk"], trained["lsh"])


def test_comparing_weights_of_other_shapes_and_names(script, trained):
    weights = trained["shared_qk"] / "checkpoints" / "best" / "model.safetensors"
    shutil.copy(trained["wider"] / "checkpoints" / "best" / "model.safetensors", weights)
    expected = [(f"{weights}: ", "another model", "embedding.weight is (8, 24), the model's is (8, 16)")]
    refused_comparison(script, expected, trained["shared_qk"])
    save_file({"wte": torch.zeros(3)}, weights)
    refused_comparison(script, [(f"{weights}: ", "another model", "lacks embedding.weight")], trained["shared_qk"])


def test_comparing_with_a_broken_configuration(script, trained):
    config = trained["shared_qk"] / "checkpoints" / "best" / "config.yaml"
    config.write_text(config.read_text().replace("dim: 16", "dim: 17", 1))
    refused_comparison(script, [(f"{config}: model:", "dim 17", "heads 2")], trained["shared_qk"])
    config.write_text("- dim\n")
    refused_comparison(script, [(f"{config}: ", "key: value")], trained["shared_qk"])


def test_comparing_weights_alone(script, trained):
    Path("lonely").mkdir()
    shutil.copy(trained["shared_qk"] / "checkpoints" / "best" / "model.safetensors", "lonely")
    refused_comparison(script, [("lonely/config.yaml: ", "no such file")], "lonely")


def test_comparing_models_with_separate_keys(script, trained):
    shutil.copytree(trained["full"], "again")
    best = Path("checkpoints") / "best"
    expected = [(f"{run / best}: ", "kind: full", "kind: shared_qk") for run in (trained["full"], Path("again"))]
    refused_comparison(script, expected, trained["full"], trained["lsh"], "again")


# -- as a user calls them --

FROM_OUTSIDE = {
    "synth_train.py": (["--model.dim", "9", "--sed", "1"], [("flags: --sed:", "did you mean --seed")]),
    "synth_models_comparison.py": (["--eval_rounds", "0"], [("flags: eval_rounds.0:", "got 0")]),
}


@pytest.mark.parametrize("name", FROM_OUTSIDE)
def test_in_a_process_of_its_own(name):
    flags, expected = FROM_OUTSIDE[name]
    done = subprocess.run([sys.executable, ROOT / name, *flags], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == len(expected)
    assert all(line.startswith(start) and part in line for line, (start, part) in zip(lines, expected, strict=True))
    assert done.stdout == ""
    assert files_below(".") == set()


def test_the_shipped_file_is_named_when_it_and_flags_disagree(script):
    outcome = script("synth_train", "--model.heads", "3")
    preset = CONFIGS / "synth_train.yaml"
    assert_refused(outcome, [(f"{preset} and flags: model:", "heads 3")])


def test_comparing_with_buckets_for_all(script, trained):
    """Every LSH column would be full attention."""
    flags = ["--checkpoints", trained["shared_qk"], "--lsh.bucket_size", "12"]
    folder = trained["shared_qk"] / "checkpoints" / "best"
    expected = [(f"{folder}: lsh.bucket_size 12", "sequence of 11 tokens")]
    assert_refused(script("synth_models_comparison", *flags), expected)
