"""Configurations that train in a moment, and the scripts called in this process (a new one imports for seconds)."""

import contextlib
import copy
import itertools
import json
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
import yaml
from safetensors.torch import load_file

from dl_proj.commands import run_script

TINY = {
    "experiment_name": "tiny",
    "data": {"vocab_size": 8, "length": 12, "n_train": 64, "n_val": 16, "n_test": 16},
    "model": {"dim": 16, "heads": 2, "ffn_dim": 16, "attention": {"kind": "shared_qk"}},
    "optimizer": {"lr": 0.01},
    "train": {"max_steps": 3, "batch_size": 8, "eval_every": 2, "device": "cpu"},
}
TINY_CLASSIFIER = {
    "experiment_name": "tiny-cls",
    "data": {"dataset": "digits", "patch_size": 4},
    "model": {"dim": 8, "heads": 2, "ffn_dim": 8, "attention": {"kind": "full"}},
    "optimizer": {"lr": 0.01},
    "train": {"max_steps": 3, "batch_size": 8, "eval_batch_size": 400, "eval_every": 2, "device": "cpu"},
}
TINY_GENERATOR = {
    "experiment_name": "tiny-gen",
    "data": {"dataset": "digits", "max_len": 16, "vocab_size": 8},
    "model": {"dim": 8, "heads": 2, "ffn_dim": 8, "attention": {"kind": "shared_qk"}},
    "loss": {"kind": "cross_entropy"},
    "samples_per_label": 1,
    "optimizer": {"lr": 0.01},
    "train": {"max_steps": 3, "batch_size": 8, "eval_batch_size": 400, "eval_every": 2, "device": "cpu"},
}
TINY_LANGUAGE = {
    "experiment_name": "tiny-lm",
    "data": {"path": "text.txt", "root": "tokens", "window": 16, "val_share": 0.1, "test_share": 0.1},
    "model": {"dim": 16, "heads": 2, "ffn_dim": 16, "attention": {"kind": "full"}},
    "optimizer": {"lr": 0.01},
    "train": {"max_steps": 3, "batch_size": 4, "eval_every": 2, "device": "cpu"},
}
TEXT = "".join(
    f"The {word} sat on the mat, said the caf\u00e9's {i % 7} owls.\n"
    for i, word in enumerate(["cat", "dog", "hen", "ox", "elk", "newt", "wren"] * 6)
)
TINY_TRANSLATION = {
    "experiment_name": "tiny-mt",
    "data": {
        "corpus": {"kind": "files", "folder": "pairs"},
        "max_length": 40,
        "tokenizer": {"vocab_size": 280},
        "root": "data",
    },
    "model": {"dim": 16, "heads": 2, "ffn_dim": 16, "positions": {"kind": "sinusoidal"}},
    "optimizer": {"lr": 0.01},
    "train": {"max_steps": 3, "batch_tokens": 200, "eval_every": 2, "device": "cpu"},
}
TINY_LONG_RANGE = {
    "experiment_name": "tiny-lra",
    "data": {
        **{"kind": "listops", "root": "data", "min_length": 5, "max_length": 18},
        **{"n_train": 64, "n_val": 16, "n_test": 16},
    },
    "model": {"dim": 16, "heads": 2, "ffn_dim": 8, "attention": {"kind": "full"}},
    "optimizer": {"lr": 0.01},
    "train": {"max_steps": 3, "batch_size": 8, "eval_every": 2, "device": "cpu"},
}
NOUNS = {"dog": "Hund", "caf\u00e9": "Kaffee", "man": "Mann", "snow": "Schnee", "fish": "Fisch", "tree": "Baum"}
VERBS = {"sees": "sieht", "has": "hat", "likes": "mag", "finds": "findet"}
PAIRS = [
    (f"a {one} {verb} the {other} .", f"ein {NOUNS[one]} {VERBS[verb]} den {NOUNS[other]} .")
    for verb in VERBS
    for one, other in itertools.permutations(NOUNS, 2)
]
PAIRS = [PAIRS[37 * i % len(PAIRS)] for i in range(60)]  # well mixed
COSTS = {
    "seconds",
    "examples_per_second",
    "tokens_per_second",
    "peak_memory_mib",
    "device",
}  # of metrics.json, hardly ever twice the same
GONE = object()  # as a value: leave this key out


def changed(config, changes=None):
    """A copy of a configuration with other values at dotted keys."""
    config = copy.deepcopy(config)
    for dotted, value in (changes or {}).items():
        *parents, key = dotted.split(".")
        here = config
        for parent in parents:
            here = here.setdefault(parent, {})
        if value is GONE:
            del here[key]
        else:
            here[key] = copy.deepcopy(value)  # or a later key would change it for all tests
    return config


def tiny(changes=None):
    """The tiny copy task with other values at dotted keys."""
    return changed(TINY, changes)


def tiny_classifier(changes=None):
    """A tiny classifier of digits, likewise."""
    return changed(TINY_CLASSIFIER, changes)


def tiny_generator(changes=None):
    """A tiny generator of 4 x 4 digits, likewise."""
    return changed(TINY_GENERATOR, changes)


def tiny_language(changes=None):
    """A tiny model of the bytes of text.txt, likewise."""
    return changed(TINY_LANGUAGE, changes)


def tiny_translation(changes=None):
    """A tiny model of the pairs below pairs/, likewise."""
    return changed(TINY_TRANSLATION, changes)


def tiny_long_range(changes=None):
    """A tiny classifier of ListOps, likewise."""
    return changed(TINY_LONG_RANGE, changes)


def write_pairs(folder="pairs", pairs=PAIRS, sizes=(40, 7, 8)):
    """The first so many pairs for training, the next ones for validation and test, line by line."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    rest = iter(pairs)
    for part, size in zip(("train", "val", "test"), sizes, strict=True):
        for language, lines in zip(("en", "de"), zip(*itertools.islice(rest, size), strict=True), strict=True):
            text = "".join(f"{line}\n" for line in lines)
            (Path(folder) / f"{part}.{language}").write_text(text, encoding="utf-8", newline="")


def as_yaml(path, config):
    """A configuration as a file."""
    Path(path).write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return Path(path)


def tiny_yaml(path, changes=None):
    """The tiny copy task as a file."""
    return as_yaml(path, tiny(changes))


@dataclass
class Outcome:
    code: int
    out: str
    lines: list[str]  # on stderr


def call(name, *flags, captured=None):
    """Run a script as its last lines do; gives its exit code and, with a capture fixture, what it printed."""
    with mock.patch.object(sys, "argv", [f"{name}.py", *map(str, flags)]):
        try:
            run_script(name)
            code = 0
        except SystemExit as end:
            code = end.code or 0
    out, err = captured.readouterr() if captured else ("", "")
    return Outcome(code, out, err.splitlines())


def over(defaults, flags):
    """Flags with those defaults, ``--name value`` each, that they lack: no flag may be given twice."""
    pairs = zip(defaults[::2], defaults[1::2], strict=True)
    return [word for pair in pairs if pair[0] not in flags for word in pair] + list(flags)


def assert_refused(outcome, expected):
    """Exit code 2 and one line for each mistake, in order. The wording is free, what it states is not.

    Args:
        outcome: what ``call`` returned.
        expected: for each line what ``assert_states`` takes: where the mistake is, and facts.
    """
    assert outcome.code == 2, outcome
    assert len(outcome.lines) == len(expected), outcome.lines
    for line, mistake in zip(outcome.lines, expected, strict=True):
        assert_states(line, *mistake)
    assert outcome.out == "", outcome


def assert_states(line, place, *facts):
    """A complaint begins with its place, states the facts, and says in words of its own what is allowed.

    Args:
        line: of stderr.
        place: file or flags, and the key, as in "c.yaml: model.dim".
        facts: values that came, bounds, names of settings and what they can be; a fact given twice is stated twice.
            Strings are single words, so that no test depends on a sentence.
    """
    words = [json.dumps(fact) if fact is None or isinstance(fact, bool) else str(fact) for fact in facts]
    assert place.removesuffix(": ").split(": ")[-1].count(" ") < 2, f"a sentence in a test: {place}"
    assert not any(isinstance(fact, str) and " " in fact for fact in facts), f"a sentence in a test: {facts}"
    place = place.removesuffix(": ")
    rest = line.removeprefix(place)
    assert rest != line and not re.match(r"[\w-]|\.\w", rest), f"{line!r} does not begin with {place}"
    for word, times in Counter(words).items():
        stated = re.findall(rf"(?<![\w.]){re.escape(word)}(?!\w|\.\d)", rest)
        assert len(stated) >= times, f"{line!r} does not state {word}"
    own_words = re.findall(r"[A-Za-z]{2,}", re.sub(r"\(got .*\)$", "", rest))
    assert len(own_words) > 1, f"{line!r} does not say what is allowed"


def saved_tensors(run):
    """The last state's tensors and the best weights of a run."""
    last = load_file(run / "checkpoints/last/state.safetensors")
    best = load_file(run / "checkpoints/best/model.safetensors")
    return {**last, **{f"best.{name}": tensor for name, tensor in best.items()}}


@contextlib.contextmanager
def one_thread():
    """Tensors this small are slower on two, many times so while another process wants the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def trained_translators(folder, trainings, max_length):
    """A finished run in ``folder`` for each kind of changes, long enough to say different things, on its pairs/."""
    own = {"data.corpus.folder": str(folder / "pairs"), "data.root": str(folder / "data"), "runs_dir": str(folder)}
    pace = {"max_steps": 120, "batch_tokens": 300, "eval_every": 120, "trackers": [], "device": "cpu"}
    own |= {"train": pace, "data.max_length": max_length, "data.tokenizer.vocab_size": 310}
    with one_thread(), mock.patch("dl_proj.experiments.experiment.draw_curves", lambda metrics, path: path.touch()):
        for name, changes in trainings.items():
            config = tiny_translation({"experiment_name": name} | own | changes)
            assert call("translation_train", "--config", as_yaml(folder / "c.yaml", config)).code == 0
    return {name: folder / name / "version_0" for name in trainings}


def files_below(folder):
    """Every file's path relative to ``folder``."""
    return {str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()}
