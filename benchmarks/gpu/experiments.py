"""Trainings on a GPU: each experiment is a sweep preset in dl_proj/configs/gpu/, most with a follow-up test."""

import csv
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dl_proj.cli import CONFIGS
from my_custom_ai.utils.files import write_text

GPU_CONFIGS = CONFIGS / "gpu"
Settings = dict[str, Any]


@dataclass(frozen=True)
class FollowUp:
    """A script that tests a trained model.

    Args:
        script: the script's name and flags, except for those that select the model, device and output folder.
        checkpoint: returns the flag that selects the model, given the run's folder.
        read: reads the results from the script's output folder.
        tiny: additional flags for a rehearsal.
    """

    script: list[str]
    checkpoint: Callable[[Path], list[str]]
    read: Callable[[Path], Settings]
    tiny: tuple[str, ...] = ()

    def command(self, run: Path, output: Path, *, device: str, tiny: bool) -> list[str]:
        """The script's name and all its flags."""
        flags = [*self.checkpoint(run), "--device", device, "--output_dir", str(output)]
        return [*self.script, *flags, *(self.tiny if tiny else ())]


@dataclass(frozen=True)
class Experiment:
    """Variants of one training.

    Args:
        name: name of the experiment.
        sweep: preset of sweep.py.
        seconds: expected time of each variant on an H100 including its test (estimates, not measurements), the most
            important variant first.
        data: returns the settings for the data, given its folder and one for files derived from it.
        tiny_variant: the variant that a rehearsal trains.
        tiny: settings that make the rehearsal small; they override the preset.
        tiny_data: creates small data in a folder, and returns the settings for it.
        follow_up: test of the trained model.
    """

    name: str
    sweep: Path
    seconds: dict[str, float]
    data: Callable[[Path, Path], Settings]
    tiny_variant: str
    tiny: Settings
    tiny_data: Callable[[Path], Settings] = field(default=lambda folder: {})
    follow_up: FollowUp | None = None


def _listed(run: Path) -> list[str]:
    return ["--checkpoints", json.dumps([str(run)])]


def _accuracy_by_rounds(output: Path) -> Settings:
    """Results of synth_models_comparison.py: accuracy in percent by the attention used in evaluation."""
    return {row["evaluated"]: float(row["accuracy"]) for row in _rows(output / "table.csv")}


def _accuracy_by_shift(output: Path) -> Settings:
    """Results of shift_test.py: accuracy in percent by the shift to the right in pixels."""
    return {row["shift"]: 100 * float(row["accuracy"]) for row in _rows(output / "shifts.csv")}


def _scores(output: Path) -> Settings:
    """Results of translation_evaluate.py."""
    return json.loads((output / "scores.json").read_text(encoding="utf-8"))


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _tiny_books(folder: Path) -> Settings:
    """Two small text files. They are written only once: a resumed run refuses data that has changed."""
    for number in range(2):
        path = folder / "books" / f"{number}.txt"
        if not path.exists():
            write_text(path, "".join(f"Line {i} of book {number} says {i * i}.\n" for i in range(200)))
    return {"data.path": str(folder / "books"), "data.root": str(folder)}


def _tiny_pairs(folder: Path) -> Settings:
    """Sixty sentence pairs, also written only once."""
    nouns = {"dog": "Hund", "man": "Mann", "fish": "Fisch", "tree": "Baum", "snow": "Schnee"}
    verbs = {"sees": "sieht", "likes": "mag", "finds": "findet"}
    triples = [(one, verb, other) for verb in verbs for one, other in itertools.permutations(nouns, 2)]
    languages = {
        "en": [f"a {one} {verb} the {other} ." for one, verb, other in triples],
        "de": [f"ein {nouns[one]} {verbs[verb]} den {nouns[other]} ." for one, verb, other in triples],
    }
    for language, lines in languages.items():
        for part, share in {"train": slice(0, 40), "val": slice(40, 48), "test": slice(48, 60)}.items():
            path = folder / "pairs" / f"{part}.{language}"
            if not path.exists():
                write_text(path, "".join(f"{line}\n" for line in lines[share]))
    return {"data.corpus.folder": str(folder / "pairs"), "data.corpus.test": "test", "data.root": str(folder)}


def _tiny_model(depth: str = "model.depth") -> Settings:
    pace = {"max_steps": 4, "eval_every": 2, "save_every": 1, "log_every": 1}
    size = {"model.dim": 16, "model.heads": 2, "model.ffn_dim": 16, depth: 1, "schedule.warmup_steps": 1}
    return size | {f"train.{name}": value for name, value in pace.items()}


_COPY = Experiment(
    name="copy",
    sweep=GPU_CONFIGS / "sweep_synth.yaml",
    seconds={"full": 30, "lsh-4": 70, "lsh-2": 140, "lsh-1": 140},
    data=lambda root, made: {},
    tiny_variant="lsh-2",
    tiny=_tiny_model()
    | {"data.vocab_size": 16, "data.length": 132, "data.n_train": 64, "data.n_val": 8, "data.n_test": 8}
    | {"train.batch_size": 8},
    follow_up=FollowUp(
        script=["synth_models_comparison", "--config", str(GPU_CONFIGS / "synth_comparison.yaml")],
        checkpoint=_listed,
        read=_accuracy_by_rounds,
        tiny=("--n_test", "8"),
    ),
)
_MNIST = Experiment(
    name="mnist",
    sweep=GPU_CONFIGS / "sweep_mnist28.yaml",
    seconds={"relative": 460, "performer": 460},
    data=lambda root, made: {"data.root": str(root)},
    tiny_variant="relative",
    tiny=_tiny_model() | {"data.dataset": "digits", "train.epochs": None, "train.batch_size": 8},
    follow_up=FollowUp(
        script=["shift_test", "--config", str(GPU_CONFIGS / "shift_test.yaml")],
        checkpoint=_listed,
        read=_accuracy_by_shift,
        tiny=("--max_shift", "1", "--labels", "null"),
    ),
)
_BOOKS = Experiment(
    name="books",
    sweep=GPU_CONFIGS / "sweep_lm_books.yaml",
    seconds={
        "full": 130,
        "lsh-4": 260,
        "performer": 400,
        "causal_linformer": 150,
        "shared_qk": 150,
        "reversible-lsh-2": 260,
        "lsh-2": 180,
        "lsh-8": 400,
    },
    data=lambda root, made: {"data.path": str(root / "books"), "data.root": str(made)},
    tiny_variant="lsh-2",
    tiny=_tiny_model()
    | {"data.window": 128, "train.batch_size": 4, "train.eval_batch_size": 16}
    | {"data.val_share": 0.1, "data.test_share": 0.1},
    tiny_data=_tiny_books,
)
_MULTI30K = Experiment(
    name="multi30k",
    sweep=GPU_CONFIGS / "sweep_translation_multi30k.yaml",
    seconds={"vanilla": 340, "linformer-k32": 340, "reversible": 380},
    data=lambda root, made: {"data.corpus.folder": str(root / "multi30k"), "data.root": str(made)},
    tiny_variant="vanilla",
    tiny=_tiny_model("model.encoder_depth")
    | {"model.decoder_depth": 1, "data.tokenizer.vocab_size": 290, "data.max_length": 40, "train.batch_tokens": 200},
    tiny_data=_tiny_pairs,
    follow_up=FollowUp(
        script=["translation_evaluate", "--batch_size", "128"],
        checkpoint=lambda run: ["--checkpoint", str(run)],
        read=_scores,
        tiny=("--beam_size", "2"),
    ),
)
_RECALL = Experiment(
    name="recall",
    sweep=GPU_CONFIGS / "sweep_recall.yaml",
    seconds={
        "full": 60,
        "lsh-4": 130,
        "performer-128": 130,
        "linear": 130,
        "performer-32": 130,
        "performer-512": 130,
        "local": 130,
    },
    data=lambda root, made: {},
    tiny_variant="performer-32",
    tiny=_tiny_model()
    | {"data.vocab_size": 32, "data.length": 16, "data.n_pairs": 2, "train.epochs": None, "train.batch_size": 8}
    | {"data.n_train": 64, "data.n_val": 8, "data.n_test": 8, "train.eval_batch_size": 8},
)
_LISTOPS = Experiment(
    name="listops",
    sweep=GPU_CONFIGS / "sweep_lra_listops.yaml",
    seconds={
        "full": 180,
        "lsh-2": 180,
        "linformer-256": 180,
        "performer-256": 180,
        "nystrom-128": 180,
        "linear": 180,
        "local": 180,
    },
    data=lambda root, made: {"data.root": str(made)},
    tiny_variant="performer-256",
    tiny=_tiny_model()
    | {"data.min_length": 20, "data.max_length": 260, "train.batch_size": 8, "train.eval_batch_size": 8}
    | {"data.n_train": 64, "data.n_val": 8, "data.n_test": 8},
    tiny_data=lambda folder: {"data.root": str(folder)},
)
_PATHFINDER = Experiment(
    name="pathfinder",
    sweep=GPU_CONFIGS / "sweep_lra_pathfinder32.yaml",
    seconds={"full": 480, "lsh-2": 480, "linformer-256": 480, "performer-256": 480},
    data=lambda root, made: {"data.root": str(made)},
    tiny_variant="linformer-256",
    tiny=_tiny_model()
    | {"data.side": 32, "data.dashes": 6, "train.batch_size": 4, "train.eval_batch_size": 8}
    | {"data.n_train": 16, "data.n_val": 8, "data.n_test": 8},
    tiny_data=lambda folder: {"data.root": str(folder)},
)
_EVERY = (_COPY, _MULTI30K, _LISTOPS, _RECALL, _BOOKS, _MNIST, _PATHFINDER)
EXPERIMENTS = {experiment.name: experiment for experiment in _EVERY}
