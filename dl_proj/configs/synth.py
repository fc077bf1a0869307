"""Schemas of the copy task's two scripts."""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from dl_proj.configs.attention import LSHConfig
from dl_proj.configs.base import Strict
from dl_proj.configs.model import StackConfig
from dl_proj.configs.training import ExperimentConfig
from my_custom_ai.custom_train.devices import DeviceName

METRICS = {"val/loss": "min", "val/accuracy": "max"}


class CopyDataConfig(Strict):
    """Sequences ``SOS w SOS w`` with a random word w."""

    vocab_size: int = Field(128, ge=3)
    """symbols, the start symbol SOS included"""
    length: int = Field(196, ge=4)
    """tokens a sequence, both start symbols included"""
    n_train: int = Field(16384, ge=1)
    """training sequences an epoch, all different"""
    fresh: bool = True
    """draw new training sequences each epoch instead of repeating the first epoch's"""
    n_val: int = Field(256, ge=1)
    """validation sequences"""
    n_test: int = Field(1024, ge=1)
    """test sequences"""
    corruption: float = Field(0.0, ge=0, le=1)
    """probability with which a symbol of the second word is replaced by a random one"""

    @model_validator(mode="after")
    def _enough_words(self) -> Self:
        words = (self.vocab_size - 1) ** min((self.length + 1) // 2 - 1, 64)
        for name, share in (("n_train", 0.8), ("n_val", 0.1), ("n_test", 0.1)):
            wanted = getattr(self, name)
            if wanted > words * share / 2:  # drawing distinct words stays quick, and a short word's luck is covered
                raise ValueError(
                    f"{name} {wanted} is too many: with vocab_size {self.vocab_size} and length {self.length} there "
                    f"are {words} words, of which {name} may take {int(words * share / 2)}"
                )
        return self


class SynthTrainConfig(ExperimentConfig):
    """Train a model to copy (Kitaev et al. 2020, section 5, "synthetic task")."""

    data: CopyDataConfig = CopyDataConfig()
    """the copy task"""
    model: StackConfig = StackConfig()
    """the model"""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        mistakes = self.model.mistakes_at(self.data.length - 1)
        monitor = self.train.monitor
        if monitor.metric not in METRICS:
            mistakes.append(f"train.monitor.metric {monitor.metric!r} is unknown, must be {' or '.join(METRICS)}")
        elif monitor.mode != METRICS[monitor.metric]:
            mistakes.append(f"train.monitor.mode must be {METRICS[monitor.metric]} for {monitor.metric}")
        if self.train.batch_size > self.data.n_train:
            mistakes.append(f"train.batch_size {self.train.batch_size} is more than data.n_train {self.data.n_train}")
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self


class SynthComparisonConfig(Strict):
    """Evaluate trained models with other numbers of hash rounds (Kitaev et al. 2020, table 2)."""

    checkpoints: tuple[str, ...] = Field(min_length=1)
    """rows: names of shipped checkpoints, or folders of runs"""
    eval_rounds: tuple[int, ...] = Field((8, 4, 2, 1), min_length=1)
    """columns after full attention: hash rounds in evaluation"""
    lsh: LSHConfig = LSHConfig()
    """LSH settings for models that were trained with full attention; the others keep their own"""
    n_test: int = Field(1024, ge=1)
    """test sequences"""
    batch_size: int = Field(64, ge=1)
    """sequences a batch"""
    device: DeviceName = "auto"
    """where to compute; auto takes the fastest there is"""
    output_dir: Path = Path("runs/synth_comparison")
    """where table.csv and table.png go"""

    @model_validator(mode="after")
    def _rounds(self) -> Self:
        if min(self.eval_rounds) < 1:
            raise ValueError(f"eval_rounds {list(self.eval_rounds)} must all be at least 1")
        return self
