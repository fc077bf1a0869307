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
from tiny_scripts import GONE, TINY, Outcome, assert_refused, files_below, tiny, tiny_yaml

from dl_proj.checkpoint_folder import SHIPPED
from dl_proj.cli import CONFIGS
from dl_proj.experiments.copy.settings import SynthTrainConfig

ROOT = Path(__file__).parents[2]
FILE, BOTH = "c.yaml: ", "c.yaml and flags: "


def lsh(**settings):
    return {"model.attention": {"kind": "lsh", "bucket_size": 4, **settings}}


# (changes to the tiny file, what each line says after "c.yaml: "): the key first, then the rest in any place
WRONG_SETTINGS = {
    "unknown at the top": ({"sede": 1}, [("sede", "seed", 1)]),
    "unknown in a section": ({"model.dimm": 8}, [("model.dimm", "dim", 8)]),
    "unknown two levels down": ({"train.monitor.metrics": "x"}, [("train.monitor.metrics", "metric")]),
    "unknown in a union": (lsh(n_round=2), [("model.attention.n_round", "n_rounds", 2)]),
    "unknown, like nothing": ({"data.zzz": [1]}, [("data.zzz", "vocab_size", [1])]),
    "three at once": (
        {"sede": 1, "model.dim": "x", "optimizer.lr": -1},
        [("optimizer.lr", 0, -1), ("model.dim", "'x'"), ("sede",)],
    ),
    "a needed section": ({"train": GONE}, [("train",)]),
    "needed by a kind": ({"model.positions": {"kind": "axial"}}, [("model.positions.shape",)]),
    "unknown kind": (
        {"model.attention": {"kind": "lhs"}},
        [("model.attention.kind", "'full'", "'shared_qk'", "'lsh'", "'lhs'")],
    ),
    "a kind that is a list": ({"schedule": {"kind": ["noam"]}}, [("schedule.kind", "'constant'", ["noam"])]),
    "no kind": (
        {"model.attention": {"n_rounds": 2}},
        [("model.attention.kind", "'full'", "'shared_qk'", "'lsh'")],
    ),
    "another kind's key": (
        {"model.attention": {"kind": "full", "n_rounds": 4}},
        [("model.attention.n_rounds", "dropout", 4)],
    ),
    "another schedule's key": (
        {"schedule": {"kind": "one_cycle", "warmup_steps": 2}},
        [("schedule.warmup_steps", "warmup_share", 2)],
    ),
    "a word for a whole number": ({"model.dim": "eight"}, [("model.dim", "'eight'")]),
    "a fraction for a whole number": ({"model.dim": 8.5}, [("model.dim", 8.5)]),
    "true for a whole number": ({"model.dim": True}, [("model.dim", "'true'")]),
    "nothing for a whole number": ({"model.dim": None}, [("model.dim", None)]),
    "a list for a number": ({"optimizer.lr": [0.1]}, [("optimizer.lr", [0.1])]),
    "a word for a number": ({"optimizer.lr": "fast"}, [("optimizer.lr", "'fast'")]),
    "false for a number": ({"model.dropout": False}, [("model.dropout", "'false'")]),
    "nan": ({"model.dropout": float("nan")}, [("model.dropout",)]),
    "inf": ({"optimizer.lr": float("inf")}, [("optimizer.lr",)]),
    "a word for true": ({"model.reversible": "maybe"}, [("model.reversible", True, False, "'maybe'")]),
    "a number for text": ({"experiment_name": 7}, [("experiment_name", 7)]),
    "a word for a list": ({"train.trackers": "tensorboard"}, [("train.trackers", "'tensorboard'")]),
    "a wrong word in a list": (
        {"train.trackers": ["tensorboard", "mlflow"]},
        [("train.trackers.1", "'tensorboard'", "'wandb'", "'mlflow'")],
    ),
    "a number for a pair": ({"optimizer.betas": 0.9}, [("optimizer.betas", 0.9)]),
    "half a pair": ({"optimizer.betas": [0.9]}, [("optimizer.betas.1",)]),
    "true in a pair": ({"optimizer.betas": [True, 0.9]}, [("optimizer.betas.0", "'true'")]),
    "a pair out of range": ({"optimizer.betas": [0.9, 1.0]}, [("optimizer.betas.1", 1, 1.0)]),
    "a word for a number or null": ({"model.head_dim": "auto"}, [("model.head_dim", "'auto'")]),
    "a number for a path": ({"runs_dir": 3}, [("runs_dir", 3)]),
    "a word for a section": ({"model.attention": "lsh"}, [("model.attention", "'lsh'")]),
    "a section left empty": ({"optimizer": None}, [("optimizer", None)]),
    "a word out of a list": ({"model.norm": "rms"}, [("model.norm", "'pre'", "'post'", "'rms'")]),
    "at least 1": ({"model.depth": 0}, [("model.depth", 1, 0)]),
    "at least 0": ({"seed": -1}, [("seed", 0, -1)]),
    "less than 2 to the 31": ({"seed": 2**31}, [("seed", 2147483648, 2147483648)]),
    "less than 1": ({"model.dropout": 1.0}, [("model.dropout", 1, 1.0)]),
    "more than 0": ({"optimizer.eps": 0}, [("optimizer.eps", 0, 0)]),
    "at most 1": ({"data.corruption": 1.5}, [("data.corruption", 1, 1.5)]),
    "a name with a slash": ({"experiment_name": "a/b"}, [("experiment_name", "A-Za-z0-9", "'a/b'")]),
    "a name above its folder": ({"experiment_name": ".."}, [("experiment_name", "A-Za-z0-9", "'..'")]),
    "dim and heads": ({"model.heads": 3}, [("model", "dim", 16, "heads", 3, "head_dim")]),
    "reversible and post-norm": (
        {"model.reversible": True, "model.norm": "post"},
        [("model", "reversible", "norm", "pre", "norm", "post")],
    ),
    "reversible and recomputed": (
        {"model.reversible": True, "model.recompute": True},
        [("model", "recompute", "reversible")],
    ),
    "what cannot be sharded": (
        {"train.parallel": "fsdp", "train.precision": "fp16", "optimizer.name": "adafactor"},
        [("train.parallel", "fsdp", "train.precision", "bf16"), ("train.parallel", "fsdp", "optimizer.name", "adam")],
    ),
    "a bucket for all": (
        {"model.attention": {"kind": "lsh"}},
        [("model.attention.bucket_size", 28, 11, "shared_qk")],
    ),
    "odd n_buckets": (lsh(n_buckets=3), [("model.attention", "n_buckets", 3)]),
    "across buckets by the bucket rule": (
        lsh(attend_across_buckets=True),
        [("model.attention", "attend_across_buckets", "rule", "chunk", "'bucket'")],
    ),
    "two rules of one section": (
        lsh(n_buckets=5, attend_across_buckets=True),
        [("model.attention", "n_buckets", 5), ("model.attention", "attend_across_buckets")],
    ),
    "too few positions": (
        {"model.positions": {"kind": "axial", "shape": [2, 5]}},
        [("model.positions.shape", 2, 5, 11)],
    ),
    "no length of training": ({"train.max_steps": GONE}, [("train", "max_steps")]),
    "two lengths of training": ({"train.epochs": 2}, [("train", "max_steps", 3, 2)]),
    "warm-up as long as training": (
        {"schedule": {"kind": "warmup_cosine", "warmup_steps": 3}},
        [("schedule.warmup_steps", 3, 3)],
    ),
    "warm-up longer than the epochs": (
        {"schedule": {"kind": "constant", "warmup_steps": 99}, "train.max_steps": GONE, "train.epochs": 2},
        [("schedule.warmup_steps", 99, 16)],
    ),
    "unknown metric": (
        {"train.monitor": {"metric": "val/acc"}},
        [("train.monitor.metric", "'val/acc'", "val/loss", "val/accuracy")],
    ),
    "the metric's wrong way": (
        {"train.monitor": {"metric": "val/accuracy"}},
        [("train.monitor.mode", "min", "val/accuracy")],
    ),
    "no length of training hides nothing": (
        {"train.max_steps": GONE, "train.monitor": {"metric": "x"}, "model.attention": {"kind": "lsh"}},
        [("model.attention.bucket_size", 28), ("train.monitor.metric", "'x'"), ("train", "max_steps", "epochs")],
    ),
    "a batch of more than all": ({"train.batch_size": 65}, [("train.batch_size", 65, "data.n_train", 64)]),
    "three rules of the whole": (
        {"train.batch_size": 65, "train.monitor": {"metric": "x"}, "model.attention": {"kind": "lsh"}},
        [("model.attention.bucket_size", 28), ("train.monitor.metric", "'x'"), ("train.batch_size", 65)],
    ),
    "more words than there are": (
        {"data.vocab_size": 3, "data.n_val": 1, "data.n_test": 1},
        [("data", "n_train", 64, "vocab_size", 3, 32, 12)],
    ),
    "more words of each split": (
        {"data.vocab_size": 3, "data.n_val": 9},
        [("data", "n_train", 64), ("data", "n_val", 9), ("data", "n_test", 16)],
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
    "empty": ("", FILE, "key:"),
    "comments only": ("# nothing\n", FILE, "key:"),
    "a list": ("- a\n- b\n", FILE, "key:", ["a", "b"]),
    "a word": ("lsh\n", FILE, "key:", "'lsh'"),
    "a key twice": ("seed: 1\ntrain:\n  epochs: 1\nseed: 2\n", "c.yaml:4: ", "'seed'"),
    "a key twice further down": ("train:\n  epochs: 1\n  epochs: 2\n", "c.yaml:3: ", "'epochs'"),
    "a bracket left open": ("seed: 1\ntrain: {epochs: 1\n", "c.yaml:3: ", "YAML"),
    "a tab": ("train:\n\tepochs: 1\n", "c.yaml:2: ", "YAML", "\\t"),
    "a list as a key": ("seed: 1\n? [a, b]\n: 2\n", "c.yaml:2: ", "YAML"),
    "an alias of nothing": ("seed: *other\n", "c.yaml:1: ", "other"),
    "an object": ("seed: !!python/object/apply:os.getpid []\n", "c.yaml:1: ", "YAML", "python"),
    "a month that is none": ("experiment_name: 2024-13-01\n", "c.yaml:1: ", "experiment_name", "timestamp"),
    "two documents": ("seed: 1\n---\nseed: 2\n", "c.yaml:2: ", "document"),
    "brackets without end": ("seed: " + 2000 * "[", FILE, "YAML"),
    "not text": (b"\xff\xfe\x00\x80", FILE, "UTF-8"),
    "a zero byte": (b"seed: \x00", FILE, "YAML"),
    "weights instead": (b"\x08\x00\x00\x00\x00\x00\x00\x00{}", FILE, "YAML"),
}


@pytest.mark.parametrize("name", ["synth_train", "synth_models_comparison"])
@pytest.mark.parametrize("case", WRONG_FILES)
def test_a_file_that_is_no_configuration(case, name, script):
    content, start, *parts = WRONG_FILES[case]
    Path("c.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert_refused(script(name, "--config", "c.yaml"), [(start, *parts)])


@pytest.mark.parametrize("name", ["synth_train", "synth_models_comparison"])
def test_a_file_that_is_not_there_or_a_folder(name, script):
    assert_refused(script(name, "--config", "none.yaml"), [("none.yaml",)])
    Path("folder.yaml").mkdir()
    assert_refused(script(name, "--config", "folder.yaml"), [("folder.yaml",)])


# flags after --config c.yaml, then the lines
WRONG_FLAGS = {
    "unknown": (["--model.dimm", "8"], [("flags: --model.dimm", "--model.dim")]),
    "unknown with =": (["--sead=8"], [("flags: --sead", "--seed")]),
    "two unknown": (["--zzzz", "1", "--sead", "2"], [("flags: --zzzz",), ("flags: --sead",)]),
    "abbreviated": (["--model.he", "2"], [("flags: --model.he",)]),
    "--conf": (["--conf", "other.yaml"], [("flags: --conf", "--config")]),
    "--res": (["--res", "last"], [("flags: --res",)]),
    "not a flag": (["dim", "8"], [("flags: dim",)]),
    "one dash": (["-seed"], [("flags: -seed",)]),
    "no value": (["--model.dim"], [("flags: --model.dim",)]),
    "no value before another": (["--seed", "--model.dim", "8"], [("flags: --seed",)]),
    "--config without a file": (["--config"], [("flags: --config",)]),
    "a bool is given its value": (["--model.reversible"], [("flags: --model.reversible",)]),
    "a word for a number": (["--model.dim", "eight"], [("flags: model.dim", "'eight'")]),
    "true for a number": (["--model.dim", "true"], [("flags: model.dim", "'true'")]),
    "true in JSON for a number": (["--model", '{"dim": true}'], [("flags: model.dim", "'true'")]),
    "negative": (["--seed", "-1"], [("flags: seed", 0, "'-1'")]),
    "nan": (["--optimizer.lr", "nan"], [("flags: optimizer.lr", "'nan'")]),
    "a pair of words": (
        ["--optimizer.betas", "a,b"],
        [("flags: optimizer.betas.0", "'a'"), ("flags: optimizer.betas.1", "'b'")],
    ),
    "half a pair": (["--optimizer.betas", "0.9"], [("flags: optimizer.betas.1",)]),
    "a list left open": (
        ["--optimizer.betas", "[0.9"],
        [("flags: --optimizer.betas", "'[0.9'")],
    ),
    "invalid JSON": (
        ["--seed", "1", "--optimizer", '{"lr": 1'],
        [("flags: --optimizer", "lr", 1)],
    ),
    "invalid JSON further down": (["--train.monitor", "{"], [("flags: --train.monitor", "'{'")]),
    "a slash in the name": (["--experiment_name", "a/b"], [("flags: experiment_name", "A-Za-z0-9", "'a/b'")]),
    "an unknown kind": (["--schedule.kind", "cosine"], [("flags: schedule.kind", "'warmup_cosine'", "'cosine'")]),
    "another kind's key": (
        ["--model.attention.n_rounds", "8"],
        [("flags: model.attention.n_rounds", "dropout", "'8'")],
    ),
    "a key that the kind of a section that the file lacks has not": (
        ["--schedule.final_factor", "1"],
        [("flags: schedule.final_factor", "warmup_steps", "'1'")],
    ),
    "a kind that needs more": (
        ["--model.positions.kind", "axial"],
        [(BOTH + "model.positions.shape",)],
    ),
    "against the file": (["--model.heads", "3"], [(BOTH + "model", "dim", 16, "heads", 3)]),
    "against the file, over sections": (
        ["--data.length", "14"],
        [("c.yaml and flags: model.positions.shape", 3, 4, 13)],
    ),
    "two lengths of training": (["--train.epochs", "1", "--train.max_steps", "2"], [(BOTH + "train", 1, 2)]),
    "no length of training": (["--train.max_steps", "null"], [(BOTH + "train", "max_steps", "epochs")]),
    "the file is wrong, a flag is not": (
        ["--seed", "1", "--data.corruption", "0.5"],
        [("c.yaml: optimizer.lr", "'fast'")],
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
    expected = [("device", "'cuda'")]
    assert_refused(script("synth_train", "--config", "c.yaml"), expected)
    flags = ["--checkpoints", trained["shared_qk"], "--lsh.bucket_size", "3", "--device", "cuda"]
    assert_refused(script("synth_models_comparison", *flags), expected)


def test_half_precision_on_a_cpu(script):
    tiny_yaml("c.yaml", {"train.precision": "fp16"})
    assert_refused(script("synth_train", "--config", "c.yaml"), [("precision", "'fp16'", "'bf16'")])
    assert files_below(".") == {"c.yaml"}


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_a_tracker_that_is_not_installed(script):
    tiny_yaml("c.yaml", {"train.trackers": ["tensorboard", "wandb"]})
    assert_refused(script("synth_train", "--config", "c.yaml"), [("tracker", "'wandb'", "wandb")])
    assert files_below(".") == {"c.yaml"}


def test_runs_where_no_folder_can_be(script):
    tiny_yaml("c.yaml", {"runs_dir": "c.yaml"})
    assert_refused(script("synth_train", "--config", "c.yaml"), [("runs_dir", "c.yaml")])


def test_too_few_examples_for_all_processes(monkeypatch, script):
    monkeypatch.setattr(Accelerator, "num_processes", 9)
    tiny_yaml("c.yaml")
    expected = [("train.batch_size", 8, 9, 64, "examples")]
    assert_refused(script("synth_train", "--config", "c.yaml"), expected)
    assert files_below(".") == {"c.yaml"}


# -- resuming --


def test_resuming_what_is_no_run(script, trained):
    tiny_yaml("c.yaml")
    for folder in ("nowhere", "c.yaml", trained["shared_qk"] / "checkpoints"):
        assert_refused(script("synth_train", "--resume", folder), [("--resume", str(folder), "config.yaml")])


def test_weights_alone_are_not_resumed(script, trained, tmp_path):
    """The best weights of a run, and a copy of a shipped model: a training would begin anew, among their files."""
    best = trained["shared_qk"] / "checkpoints" / "best"
    shipped = shutil.copytree(SHIPPED / "synth-gen-full", tmp_path / "shipped")
    for folder in (best, shipped):
        before = files_below(folder)
        assert_refused(script("synth_train", "--resume", folder), [("--resume", str(folder), "runs/NAME/version_0")])
        assert files_below(folder) == before


def test_resuming_the_last_of_none(script):
    tiny_yaml("c.yaml")
    assert_refused(script("synth_train", "--config", "c.yaml", "--resume", "last"), [("--resume", "runs/tiny")])


def test_resuming_is_for_trainings(script):
    assert_refused(script("synth_models_comparison", "--resume", "last"), [("flags: --resume",)])


CHANGES = {
    "seed": (["--seed", "7"], [("seed", 42, 7)]),
    "two settings, and one that may change": (
        ["--model.dropout", "0.5", "--data.n_val", "9", "--optimizer.lr", "1"],
        [("data.n_val", 16, 9), ("model.dropout", 0.0, 0.5)],
    ),
    "the kind": (["--model.attention.kind", "full"], [("model.attention.kind", "'shared_qk'", "'full'")]),
    "the batches": (["--train.batch_size", "4"], [("train.batch_size", 8, 4)]),
}


@pytest.mark.parametrize("case", CHANGES)
def test_resuming_with_other_settings(case, script, trained):
    flags, expected = CHANGES[case]
    run = trained["shared_qk"]
    before = files_below(run)
    lines = [(f"--resume: {run}/config.yaml: {start}", *parts) for start, *parts in expected]
    assert_refused(script("synth_train", "--resume", run, *flags), lines)
    assert files_below(run) == before


def cut_in_half(path):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


SPOILERS = {
    "truncated": cut_in_half,
    "empty": lambda path: path.write_bytes(b""),
    "a pickle": lambda path: torch.save({"a": torch.zeros(3)}, path),
    "text": lambda path: path.write_text("weights, honestly\n" * 9),
}


@pytest.mark.parametrize("case", SPOILERS)
def test_resuming_a_spoilt_state(case, script, trained):
    state = trained["shared_qk"] / "checkpoints" / "last" / "state.safetensors"
    SPOILERS[case](state)
    assert_refused(script("synth_train", "--resume", trained["shared_qk"]), [(f"{state}", "safetensors")])


def test_resuming_the_state_of_another_model(script, trained):
    state = trained["shared_qk"] / "checkpoints" / "last" / "state.safetensors"
    shutil.copy(trained["wider"] / "checkpoints" / "last" / "state.safetensors", state)
    outcome = script("synth_train", "--resume", trained["shared_qk"])
    assert_refused(outcome, [(f"{state}", "embedding.weight", 8, 24, 8, 16)])


def test_resuming_somebody_elses_safetensors(script, trained):
    state = trained["shared_qk"] / "checkpoints" / "last" / "state.safetensors"
    save_file({"wte": torch.zeros(3)}, state)
    assert_refused(script("synth_train", "--resume", trained["shared_qk"]), [(f"{state}",)])
    save_file({"wte": torch.zeros(3)}, state, metadata={"note": "[1]"})
    assert_refused(script("synth_train", "--resume", trained["shared_qk"]), [(f"{state}",)])


@pytest.mark.parametrize("text", ["once,upon\na,time\n", "step\nmany\n"])
def test_resuming_with_a_spoilt_history(text, script, trained):
    history = trained["shared_qk"] / "metrics.csv"
    history.write_text(text)
    assert_refused(script("synth_train", "--resume", trained["shared_qk"]), [(f"{history}", "step")])


def test_resuming_a_run_whose_configuration_is_broken(script, trained):
    config = trained["shared_qk"] / "config.yaml"
    config.write_text("seed: [1")
    assert_refused(script("synth_train", "--resume", trained["shared_qk"]), [(f"{config}:1",)])


# -- comparing --

COMPARISON_FLAGS = {
    "no rounds": (["--eval_rounds", "0"], [("flags: eval_rounds.0", 1, 0)]),
    "half a round": (["--eval_rounds", "2,1.5"], [("flags: eval_rounds.1", 1.5)]),
    "no columns": (["--eval_rounds", "[]"], [("c.yaml and flags: eval_rounds",)]),
    "no rows": (["--checkpoints", "[]"], [("c.yaml and flags: checkpoints",)]),
    "a row without a name": (["--checkpoints", ""], [("flags: checkpoints.0", "''")]),
    "no sequences": (["--n_test", "0"], [("flags: n_test", 1, "'0'")]),
    "an unknown device": (["--device", "tpu"], [("flags: device", "'auto'", "'cuda'", "'mps'", "'cpu'", "'tpu'")]),
    "other attention": (["--lsh.kind", "full"], [("flags: lsh.kind", "'lsh'", "'full'")]),
    "odd buckets": (["--lsh.n_buckets", "3"], [("c.yaml and flags: lsh", "n_buckets", 3)]),
    "rounds in the wrong place": (
        ["--lsh.eval_rounds", "3"],
        [("c.yaml and flags: lsh.eval_rounds", 3, "eval_rounds")],
    ),
    "what is for training": (
        ["--lsh.n_rounds", "2", "--lsh.dropout", "0.5", "--lsh.fresh_rotations", "false"],
        [
            ("c.yaml and flags: lsh.n_rounds", 2, "eval_rounds"),
            ("c.yaml and flags: lsh.dropout", 0.5),
            ("c.yaml and flags: lsh.fresh_rotations",),
        ],
    ),
    "an unknown setting": (["--lsh.rounds", "3"], [("flags: --lsh.rounds", "--lsh.n_rounds")]),
}


@pytest.mark.parametrize("case", COMPARISON_FLAGS)
def test_a_wrong_flag_of_the_comparison(case, script):
    flags, expected = COMPARISON_FLAGS[case]
    Path("c.yaml").write_text("checkpoints: [a]\n")
    assert_refused(script("synth_models_comparison", "--config", "c.yaml", *flags), expected)
    assert files_below(".") == {"c.yaml"}


def test_a_wrong_setting_of_the_comparison(script):
    Path("c.yaml").write_text("chekpoints: [a]\nlsh: {kind: lsh, bucketsize: 3}\n")
    expected = [("c.yaml: checkpoints",), ("c.yaml: lsh.bucketsize", "bucket_size")]
    expected += [("c.yaml: chekpoints", "checkpoints")]
    assert_refused(script("synth_models_comparison", "--config", "c.yaml"), expected)


def refused_comparison(script, expected, *checkpoints):
    flags = ["--checkpoints", ",".join(map(str, checkpoints)), "--n_test", "4", "--lsh.bucket_size", "2"]
    before = files_below(".")
    assert_refused(script("synth_models_comparison", *flags, "--device", "cpu"), expected)
    assert files_below(".") == before


def test_comparing_a_checkpoint_that_is_none(script, trained):
    expected = [("checkpoints", "'synth-gen-fool'")]
    refused_comparison(script, expected, trained["shared_qk"], "synth-gen-fool")
    Path("runs/none/version_0").mkdir(parents=True)
    refused_comparison(script, [("checkpoints", "'runs/none'")], "runs/none")


@pytest.mark.parametrize("case", SPOILERS)
def test_comparing_spoilt_weights(case, script, trained):
    """The good one before it is not evaluated first: a user should not wait for a mistake."""
    weights = trained["lsh"] / "checkpoints" / "best" / "model.safetensors"
    SPOILERS[case](weights)
    refused_comparison(script, [(f"{weights}", "safetensors")], trained["shared_qk"], trained["lsh"])


def test_comparing_weights_of_other_shapes_and_names(script, trained):
    weights = trained["shared_qk"] / "checkpoints" / "best" / "model.safetensors"
    shutil.copy(trained["wider"] / "checkpoints" / "best" / "model.safetensors", weights)
    expected = [(f"{weights}", "embedding.weight", 8, 24, 8, 16)]
    refused_comparison(script, expected, trained["shared_qk"])
    save_file({"wte": torch.zeros(3)}, weights)
    refused_comparison(script, [(f"{weights}", "embedding.weight")], trained["shared_qk"])


def test_comparing_with_a_broken_configuration(script, trained):
    config = trained["shared_qk"] / "checkpoints" / "best" / "config.yaml"
    config.write_text(config.read_text().replace("dim: 16", "dim: 17", 1))
    refused_comparison(script, [(f"{config}: model", "dim", 17, "heads", 2)], trained["shared_qk"])
    config.write_text("- dim\n")
    refused_comparison(script, [(f"{config}",)], trained["shared_qk"])


def test_comparing_weights_alone(script, trained):
    Path("lonely").mkdir()
    shutil.copy(trained["shared_qk"] / "checkpoints" / "best" / "model.safetensors", "lonely")
    refused_comparison(script, [("lonely/config.yaml",)], "lonely")


def test_comparing_models_with_separate_keys(script, trained):
    shutil.copytree(trained["full"], "again")
    best = Path("checkpoints") / "best"
    expected = [(f"{run / best}", "full", "shared_qk") for run in (trained["full"], Path("again"))]
    refused_comparison(script, expected, trained["full"], trained["lsh"], "again")


# -- as a user calls them --

FROM_OUTSIDE = {
    "synth_train.py": (["--model.dim", "9", "--sed", "1"], [("flags: --sed", "--seed")]),
    "synth_models_comparison.py": (["--eval_rounds", "0"], [("flags: eval_rounds.0", 0)]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FROM_OUTSIDE)
def test_in_a_process_of_its_own(name):
    flags, expected = FROM_OUTSIDE[name]
    done = subprocess.run([sys.executable, ROOT / name, *flags], capture_output=True, text=True, check=False)
    assert_refused(Outcome(done.returncode, done.stdout, done.stderr.splitlines()), expected)
    assert files_below(".") == set()


def test_the_shipped_file_is_named_when_it_and_flags_disagree(script):
    outcome = script("synth_train", "--model.heads", "3")
    preset = CONFIGS / "synth_train.yaml"
    assert_refused(outcome, [(f"{preset} and flags: model", "heads", 3)])


def test_comparing_with_buckets_for_all(script, trained):
    """Every LSH column would be full attention."""
    flags = ["--checkpoints", trained["shared_qk"], "--lsh.bucket_size", "12"]
    folder = trained["shared_qk"] / "checkpoints" / "best"
    expected = [(f"{folder}: lsh.bucket_size", 12, 11)]
    assert_refused(script("synth_models_comparison", *flags), expected)
