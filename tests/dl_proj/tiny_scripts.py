"""Configurations that train in a moment, and the scripts called in this process (a new one imports for seconds)."""

import contextlib
import copy
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
import yaml

import synth_models_comparison
import synth_train
from dl_proj.cli import run_script

SCRIPTS = {module.__name__: module for module in (synth_train, synth_models_comparison)}

TINY = {
    "experiment_name": "tiny",
    "data": {"vocab_size": 8, "length": 12, "n_train": 64, "n_val": 16, "n_test": 16},
    "model": {"dim": 16, "heads": 2, "ffn_dim": 16, "attention": {"kind": "shared_qk"}},
    "optimizer": {"lr": 0.01},
    "train": {"max_steps": 3, "batch_size": 8, "eval_every": 2, "device": "cpu"},
}
GONE = object()  # as a value: leave this key out


def tiny(changes=None):
    """The tiny configuration with other values at dotted keys."""
    config = copy.deepcopy(TINY)
    for dotted, value in (changes or {}).items():
        *parents, key = dotted.split(".")
        here = config
        for parent in parents:
            here = here.setdefault(parent, {})
        if value is GONE:
            del here[key]
        else:
            here[key] = value
    return config


def tiny_yaml(path, changes=None):
    """The tiny configuration as a file."""
    Path(path).write_text(yaml.safe_dump(tiny(changes), sort_keys=False), encoding="utf-8")
    return Path(path)


@dataclass
class Outcome:
    code: int
    out: str
    lines: list[str]  # on stderr


def call(name, *flags, captured=None):
    """Run a script as its last lines do; gives its exit code and, with a capture fixture, what it printed."""
    with mock.patch.object(sys, "argv", [f"{name}.py", *map(str, flags)]):
        try:
            run_script(SCRIPTS[name].main)
            code = 0
        except SystemExit as end:
            code = end.code or 0
    out, err = captured.readouterr() if captured else ("", "")
    return Outcome(code, out, err.splitlines())


@contextlib.contextmanager
def one_thread():
    """Tensors this small are slower on two, many times so while another process wants the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def files_below(folder):
    """Every file's path relative to ``folder``."""
    return {str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()}
