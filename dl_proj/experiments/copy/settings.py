"""Schemas of the copy task's two scripts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from dl_proj.experiments.settings import ExperimentConfig, MonitorMode, TrainConfig
from dl_proj.models.attention_settings import SCHEMAS, AttentionSchema
from dl_proj.models.settings import StackConfig
from dl_proj.settings.base import Strict
from my_custom_ai.custom_train.names import DeviceName

if TYPE_CHECKING:
    LSHConfig = AttentionSchema
else:
    LSHConfig = SCHEMAS["lsh"]


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

    def mistakes(self) -> list[str]:
        """See Strict."""
        words = (self.vocab_size - 1) ** min((self.length + 1) // 2 - 1, 64)
        found = []
        for name, share in (("n_train", 0.8), ("n_val", 0.1), ("n_test", 0.1)):
            wanted = getattr(self, name)
            if wanted > words * share / 2:  # drawing distinct words stays quick, and a short word's luck is covered
                found.append(
                    f"{name} {wanted} is too many: with vocab_size {self.vocab_size} and length {self.length} there "
                    f"are {words} words, of which {name} may take {int(words * share / 2)}"
                )
        return found


class SynthTrainConfig(ExperimentConfig):
    """Train a model to copy (Kitaev et al. 2020, section 5, "synthetic task")."""

    METRICS: ClassVar[dict[str, MonitorMode]] = {"val/loss": "min", "val/accuracy": "max"}
    LENGTH: ClassVar[str] = "data.length"

    task: Literal["copy"] = "copy"
    """what is trained"""
    data: CopyDataConfig = CopyDataConfig()
    """the copy task"""
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
        return f"synth-gen-{self.model.attention_slug}"

    def mistakes(self) -> list[str]:
        """See Strict."""
        found = self.model.mistakes_at(self.data.length - 1, causal=True, grid=False) + super().mistakes()
        if self.train.batch_size > self.data.n_train:
            found.append(f"train.batch_size {self.train.batch_size} is more than data.n_train {self.data.n_train}")
        elif not self.train.length_mistakes():
            found += self.schedule_mistakes(self.train.steps(self.data.n_train))
        return found


class SynthComparisonConfig(Strict):
    """Evaluate trained models with other numbers of hash rounds (Kitaev et al. 2020, table 2)."""

    checkpoints: tuple[Annotated[str, Field(min_length=1)], ...]
    """rows: names of shipped checkpoints, or folders of runs"""
    eval_rounds: tuple[Annotated[int, Field(ge=1)], ...] = (8, 4, 2, 1)
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

    def mistakes(self) -> list[str]:
        """See Strict."""
        found = [
            f"{name} is empty, needs one at least" for name in ("checkpoints", "eval_rounds") if not getattr(self, name)
        ]
        for name in ("n_rounds", "eval_rounds", "dropout", "fresh_rotations"):  # of training, or the columns' own
            value = getattr(self.lsh, name)
            if value != LSHConfig.model_fields[name].default:
                found.append(
                    f"lsh.{name} {value} has no effect: the columns' rounds are eval_rounds, and nothing is trained"
                )
        return found
