"""Schemas of synth_train.py and synth_models_comparison.py."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from dl_proj.experiments.recall.sizes import n_keys_of, n_slots_of
from dl_proj.experiments.settings import ExperimentConfig, MonitorMode, TrainConfig
from dl_proj.models.attention_settings import SCHEMAS, AttentionSchema
from dl_proj.models.settings import StackConfig
from dl_proj.settings.base import Strict
from my_custom_ai.custom_train.names import DeviceName

if TYPE_CHECKING:
    LSHConfig = AttentionSchema
else:
    LSHConfig = SCHEMAS["lsh"]


class SynthDataConfig(Strict):
    """Sequences of the copy task, ``SOS w SOS w`` with a random word w, or of associative recall."""

    task: Literal["copy", "recall"] = "copy"
    """copy: repeat a word (Kitaev et al. 2020); recall: recall the values of keys (Arora et al. 2024)"""
    vocab_size: int = Field(128, ge=3)
    """number of symbols, including the start symbol; recall: blank and keys in the first half, values in the second;
    8192 by default"""
    length: int = Field(196, ge=4)
    """tokens per sequence, including both start symbols; recall: 64 by default"""
    n_train: int = Field(16384, ge=1)
    """training sequences per epoch, all different"""
    fresh: bool = True
    """draw new training sequences in each epoch instead of repeating those of the first"""
    n_val: int = Field(256, ge=1)
    """validation sequences"""
    n_test: int = Field(1024, ge=1)
    """test sequences"""
    corruption: float = Field(0.0, ge=0, le=1)
    """copy: probability of replacing a symbol of the second word by a random one"""
    n_pairs: int = Field(8, ge=1)
    """recall: key-value pairs per sequence, each queried once; a pair takes at least four tokens"""
    gap_power: float = Field(0.01, ge=0, le=1)
    """recall: the probability of a query in slot i after the pairs is proportional to i^(gap_power - 1); 1: uniform"""
    filler: Literal["blank", "random"] = "blank"
    """recall: tokens that are neither pairs nor queries: all blank, or random symbols other than the sequence's keys"""

    @model_validator(mode="before")
    @classmethod
    def _default_recall_sizes(cls, values: Any) -> Any:
        """Use Zoology's sizes as defaults for associative recall."""
        is_recall = isinstance(values, dict) and values.get("task") == "recall"
        return {"vocab_size": 8192, "length": 64} | values if is_recall else values

    @property
    def n_inputs(self) -> int:
        """Length of the model's input; in the copy task the last token is only predicted."""
        return self.length if self.task == "recall" else self.length - 1

    def mistakes(self) -> list[str]:
        """See Strict."""
        found = self._unused_settings()
        if self.task == "recall":
            too_small = self._recall_mistakes()
            return found + (too_small or self._too_many("dictionaries", self._n_dictionaries))
        n_words = (self.vocab_size - 1) ** min((self.length + 1) // 2 - 1, 64)
        return found + self._too_many("words", n_words)

    def _unused_settings(self) -> list[str]:
        others = ("corruption",) if self.task == "recall" else ("n_pairs", "gap_power", "filler")
        fields = type(self).model_fields
        return [
            f"{name} {getattr(self, name)} has no effect with task: {self.task}; remove it"
            for name in others
            if getattr(self, name) != fields[name].default
        ]

    def _recall_mistakes(self) -> list[str]:
        found, n_keys = [], n_keys_of(self.vocab_size)
        if n_slots_of(self.length, self.n_pairs) < self.n_pairs:
            found.append(
                f"length {self.length} is too short: n_pairs {self.n_pairs} needs at least {4 * self.n_pairs} tokens, "
                "two per pair and two per query"
            )
        if n_keys < self.n_pairs:
            found.append(
                f"vocab_size {self.vocab_size} is too small: it has {n_keys} keys, but n_pairs is {self.n_pairs}; "
                f"must be at least {2 * self.n_pairs + 2}"
            )
        return found

    @property
    def _n_dictionaries(self) -> int:
        n_keys, some = n_keys_of(self.vocab_size), min(self.n_pairs, 8)  # 8 pairs are enough for a lower bound
        return math.perm(n_keys, some) * math.perm(self.vocab_size - 1 - n_keys, some)

    def _too_many(self, what: str, available: int) -> list[str]:
        found = []
        for name, share in (("n_train", 0.8), ("n_val", 0.1), ("n_test", 0.1)):
            # half of a split's share: distinct ones are still drawn quickly, and shares vary by chance
            wanted, most = getattr(self, name), available * share / 2
            if wanted > most:
                sizes = f"vocab_size {self.vocab_size} and "
                sizes += f"n_pairs {self.n_pairs}" if self.task == "recall" else f"length {self.length}"
                found.append(
                    f"{name} {wanted} is too many: with {sizes} there are {available} {what}, of which {name} may use "
                    f"at most {int(most)}"
                )
        return found


class SynthTrainConfig(ExperimentConfig):
    """Train a model to copy (Kitaev et al. 2020, section 5, "synthetic task"), or to recall (Arora et al. 2024)."""

    METRICS: ClassVar[dict[str, MonitorMode]] = {"val/loss": "min", "val/accuracy": "max"}
    LENGTH: ClassVar[str] = "data.length"

    task: Literal["copy"] = "copy"
    """type of training; fixed"""
    data: SynthDataConfig = SynthDataConfig()
    """the sequences"""
    model: StackConfig = StackConfig()
    """the model"""
    train: TrainConfig
    """the pace of training"""

    @property
    def tokens_per_example(self) -> int:
        """See ExperimentConfig."""
        return self.data.length

    @property
    def default_name(self) -> str:
        """See ExperimentConfig."""
        return f"synth-{'recall' if self.data.task == 'recall' else 'gen'}-{self.model.attention_slug}"

    @property
    def table(self) -> str:
        """See ExperimentConfig."""
        return self.data.task

    def mistakes(self) -> list[str]:
        """See Strict."""
        found = self.model.mistakes_at(self.data.n_inputs, causal=True, grid=False) + super().mistakes()
        if self.train.batch_size > self.data.n_train:
            found.append(f"train.batch_size {self.train.batch_size} is more than data.n_train {self.data.n_train}")
        elif not self.train.length_mistakes():
            found += self.schedule_mistakes(self.train.steps(self.data.n_train))
        return found


class SynthComparisonConfig(Strict):
    """Evaluate models of the copy task with other numbers of hash rounds (Kitaev et al. 2020, table 2).

    Or compare models of associative recall by the size of their decoding state (Arora et al. 2024, figure 2).
    """

    checkpoints: tuple[Annotated[str, Field(min_length=1)], ...]
    """models to compare, all of one task: names of shipped checkpoints, run folders, or folders above several runs"""
    eval_rounds: tuple[Annotated[int, Field(ge=1)], ...] = (8, 4, 2, 1)
    """copy task: hash rounds in evaluation, one column each after full attention"""
    lsh: LSHConfig = LSHConfig()
    """copy task: LSH settings for models trained with full attention; the others keep their own"""
    n_test: int = Field(1024, ge=1)
    """test sequences"""
    batch_size: int = Field(64, ge=1)
    """sequences per batch"""
    device: DeviceName = "auto"
    """where to compute; auto picks the fastest device available"""
    output_dir: Path = Path("runs/synth_comparison")
    """folder for table.csv, table.png and, for recall, runs.csv"""

    def mistakes(self) -> list[str]:
        """See Strict."""
        found = [
            f"{name} is empty, needs at least one" for name in ("checkpoints", "eval_rounds") if not getattr(self, name)
        ]
        for name in ("n_rounds", "eval_rounds", "dropout", "fresh_rotations"):  # affect training, or set per column
            value = getattr(self.lsh, name)
            if value != LSHConfig.model_fields[name].default:
                found.append(f"lsh.{name} {value} has no effect: rounds are set by eval_rounds, and nothing is trained")
        return found
