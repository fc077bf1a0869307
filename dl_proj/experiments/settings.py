"""Schemas shared by all trainings: optimiser, schedule, pace, early stopping."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from dl_proj.models.baseline_settings import ImageBaselineConfig
from dl_proj.models.settings import EncoderDecoderConfig, StackConfig
from dl_proj.settings.base import Strict
from dl_proj.tables import Row
from my_custom_ai.custom_train.names import DeviceName, MatmulPrecision, OptimizerName, Parallel, Precision

_Beta = Annotated[float, Field(ge=0, lt=1)]
MonitorMode = Literal["max", "min"]


class OptimizerConfig(Strict):
    """The optimiser."""

    name: OptimizerName = "adam"
    """the algorithm"""
    lr: float = Field(3e-3, gt=0)
    """peak learning rate of the schedule; adafactor: peak of its relative step size, which also decays as
    1 / sqrt(update), 0.01 in the paper"""
    weight_decay: float = Field(0.0, ge=0)
    """weight decay, applied to matrices but not to vectors"""
    betas: tuple[_Beta, _Beta] = (0.9, 0.98)
    """adam, adamw: decay rates of the moments"""
    eps: float = Field(1e-8, gt=0)
    """adam, adamw: added to the denominator"""


class ConstantConfig(Strict):
    """Constant rate."""

    kind: Literal["constant"] = "constant"
    """learning-rate schedule"""
    warmup_steps: int = Field(0, ge=0)
    """updates of linear warm-up"""


class WarmupCosineConfig(Strict):
    """Linear up, half a cosine down."""

    kind: Literal["warmup_cosine"] = "warmup_cosine"
    """learning-rate schedule"""
    warmup_steps: int = Field(0, ge=0)
    """updates of linear warm-up"""
    final_factor: float = Field(0.0, ge=0, le=1)
    """warmup_cosine: final rate as a fraction of lr"""


class WarmupLinearConfig(Strict):
    """Linear up, linear down."""

    kind: Literal["warmup_linear"] = "warmup_linear"
    """learning-rate schedule"""
    warmup_steps: int = Field(0, ge=0)
    """updates of linear warm-up"""
    final_factor: float = Field(0.0, ge=0, le=1)
    """warmup_linear: final rate as a fraction of lr"""


class OneCycleConfig(Strict):
    """Half a cosine up, half a cosine down to almost nothing."""

    kind: Literal["one_cycle"] = "one_cycle"
    """learning-rate schedule"""
    warmup_share: float = Field(0.3, ge=0, lt=1)
    """one_cycle: fraction of the updates in which the rate rises"""
    start_divisor: float = Field(25.0, ge=1)
    """one_cycle: the rate starts at lr divided by this"""
    final_divisor: float = Field(1e4, ge=1)
    """one_cycle: the rate ends at its initial value divided by this"""


class NoamConfig(Strict):
    """The Transformer paper's schedule: linear up, then down as 1 / sqrt(step); use lr 1."""

    kind: Literal["noam"] = "noam"
    """learning-rate schedule"""
    warmup_steps: int = Field(4000, ge=1)
    """updates of linear warm-up"""


ScheduleConfig = Annotated[
    ConstantConfig | WarmupCosineConfig | WarmupLinearConfig | OneCycleConfig | NoamConfig,
    Field(discriminator="kind"),
]


class MonitorConfig(Strict):
    """Which weights are the best, and when to stop early."""

    metric: str = "val/loss"
    """validation metric that selects the best weights"""
    mode: MonitorMode = "min"
    """whether a larger (max) or smaller (min) value is better"""
    patience: int | None = Field(None, ge=1)
    """evaluations without improvement before training stops; null: never"""
    min_delta: float = Field(0.0, ge=0)
    """smaller improvements do not reset the patience counter"""
    target: float | None = None
    """stop once the metric reaches this value; null: never"""


class PaceConfig(Strict):
    """Length of the training and frequency of evaluations; subclasses define the batch."""

    max_steps: int | None = Field(None, ge=1)
    """updates of the weights; give this or epochs"""
    epochs: int | None = Field(None, ge=1)
    """passes over the training data; give this or max_steps"""
    eval_batch_size: int = Field(64, ge=1)
    """examples per batch in evaluation"""
    accumulate: int = Field(1, ge=1)
    """batches per update and process, treated as one large batch"""
    clip_norm: float = Field(1.0, ge=0)
    """maximum norm of the gradient; 0: no clipping"""
    eval_every: int = Field(100, ge=1)
    """updates between evaluations"""
    save_every: int = Field(100, ge=1)
    """updates between saved states, besides those after each evaluation"""
    save_minutes: float = Field(5.0, gt=0)
    """maximum minutes between two saves"""
    wait_minutes: float = Field(10.0, gt=0, le=60 * 24 * 365)
    """minutes after which a process gives up waiting for another"""
    log_every: int = Field(10, ge=1)
    """updates between rows of training metrics"""
    max_eval_batches: int | None = Field(None, ge=1)
    """evaluate on only this many batches; null: on all"""
    precision: Precision = "no"
    """mixed precision"""
    matmul_precision: MatmulPrecision = "highest"
    """precision of float32 matrix products on CUDA; high: TF32, faster"""
    device: DeviceName = "auto"
    """where to compute; auto picks the fastest device available"""
    parallel: Parallel = "ddp"
    """with torchrun: each process keeps all weights (ddp) or its share (fsdp)"""
    num_workers: int = Field(0, ge=0)
    """data-loading processes"""
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)
    """what records metrics besides metrics.csv"""
    monitor: MonitorConfig = MonitorConfig()
    """best weights and early stopping"""

    @field_validator("precision", mode="before")
    @classmethod
    def _read_no_as_a_string(cls, value: Any) -> Any:
        return "no" if value is False else value  # YAML 1.1 parses no as False

    def length_mistakes(self) -> list[str]:
        """Check that either max_steps or epochs is set; in ``mistakes`` it would hide the experiment's."""
        if self.max_steps is None and self.epochs is None:
            return ["train: needs max_steps or epochs"]
        if self.max_steps is not None and self.epochs is not None:
            return [f"train: max_steps {self.max_steps} and epochs {self.epochs} are both set: set one of them to null"]
        return []

    def steps_of(self, n_batches: int) -> int:
        """Return the number of updates, given ``n_batches`` per epoch and process."""
        if self.max_steps is not None:
            return self.max_steps
        assert self.epochs is not None  # see length_mistakes
        return max(1, self.epochs * n_batches // self.accumulate)


class TrainConfig(PaceConfig):
    """The pace of training."""

    batch_size: int = Field(32, ge=1)
    """examples per batch (and process)"""

    def steps(self, n_examples: int, processes: int = 1) -> int:
        """Return the number of updates."""
        return self.steps_of(n_examples // processes // self.batch_size)


class SequencePaceConfig(TrainConfig):
    """The pace of training on sequences that may differ in length."""

    similar_sizes: bool = False
    """fill each batch with sequences of similar length, which saves padding"""


class TranslationPaceConfig(PaceConfig):
    """The pace of training on sentence pairs of similar length."""

    batch_tokens: int = Field(4096, ge=1)
    """tokens per batch (and process), padding included: number of pairs times the longest sentence"""


class ExperimentConfig(Strict):
    """The configuration of a training; the base class of all of them."""

    METRICS: ClassVar[dict[str, MonitorMode]] = {"val/loss": "min"}  # metrics to monitor: the better direction
    LENGTH: ClassVar[str]  # the setting that determines the sequence length
    GRID: ClassVar[bool] = False  # whether the tokens form a grid

    if TYPE_CHECKING:  # a field of every subclass

        @property
        def model(self) -> StackConfig | EncoderDecoderConfig | ImageBaselineConfig:
            """The settings of the model."""

    experiment_name: str = Field("", pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]*)?$")
    """name of the experiment and of the folder with its runs; by default from task, data and attention"""
    runs_dir: Path = Path("runs")
    """parent folder of the experiments"""
    seed: int = Field(42, ge=0, lt=2**31)
    """seed of weights, data, dropout and hashes"""
    init_from: str | None = Field(None, min_length=1)
    """initial weights: the name of a shipped checkpoint, or the folder of a run or an imported model; without
    --config, its settings apply too; null: random weights"""
    init_strict: bool = True
    """init_from: refuse weights that do not fit; false: load those whose names and shapes match, list the others"""
    optimizer: OptimizerConfig = OptimizerConfig()
    """the optimiser"""
    schedule: ScheduleConfig = ConstantConfig()
    """the learning-rate schedule, chosen by kind"""
    train: PaceConfig
    """the pace of training"""

    @model_validator(mode="before")
    @classmethod
    def _without_history(cls, values: Any) -> Any:
        """Drop the history of changes that a run's config.yaml may have: it is not a setting."""
        return {key: value for key, value in values.items() if key != "history"} if isinstance(values, dict) else values

    @property
    def metrics(self) -> dict[str, MonitorMode]:
        """Metrics that this training can monitor, and the better direction of each."""
        return self.METRICS

    @property
    def tokens_per_example(self) -> int | None:
        """Tokens per sequence; None if lengths differ."""
        return None

    @property
    def published(self) -> list[Row]:
        """Rows with the figures that papers report for this training."""
        return []

    @property
    def table(self) -> str:
        """The table in which it is listed: its task, or a subtask whose figures are comparable."""
        return str(type(self).model_fields["task"].default)

    @property
    def default_name(self) -> str:
        """A name made of the task, the data and the attention."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _named(self) -> Self:
        if not self.experiment_name:
            object.__setattr__(self, "experiment_name", self.default_name)  # self is frozen
        return self

    @classmethod
    def beside_flags(cls, values: dict[str, Any], flags: dict[str, Any], path: Path) -> dict[str, Any]:
        """See Strict: a length given by flags replaces the file's."""
        return fitted_to_length(values, flags)

    @classmethod
    def quick(cls) -> dict[str, Any]:
        """Return the settings that ``--quick`` changes: a few steps and batches."""
        often = {"eval_every": 10, "save_every": 10, "log_every": 1}
        return {"train": {"max_steps": 20, "max_eval_batches": 2, **often}}

    def mistakes(self) -> list[str]:
        """See Strict."""
        unused = self.init_from is None and not self.init_strict
        found = ["init_strict: false has no effect without init_from"] if unused else []
        return found + self._monitor_mistakes() + self._parallel_mistakes() + self.train.length_mistakes()

    def _parallel_mistakes(self) -> list[str]:
        """Report what cannot be sharded over processes."""
        if self.train.parallel == "ddp":
            return []
        found = []
        if self.train.precision == "fp16":
            found.append("train.parallel: fsdp needs train.precision: no or bf16")
        if self.optimizer.name == "adafactor":
            found.append("train.parallel: fsdp needs optimizer.name: adam or adamw")
        return found

    def _monitor_mistakes(self) -> list[str]:
        """Report an unknown metric, or the wrong direction for a known one."""
        monitor = self.train.monitor
        if monitor.metric not in self.metrics:
            return [f"train.monitor.metric {monitor.metric!r} is unknown, must be {' or '.join(self.metrics)}"]
        if monitor.mode != self.metrics[monitor.metric]:
            better = self.metrics[monitor.metric]
            return [f"train.monitor.mode {monitor.mode} must be {better} for {monitor.metric}"]
        return []

    def schedule_mistakes(self, steps: int) -> list[str]:
        """Return the schedule settings that do not fit a training of ``steps`` updates."""
        warmup = getattr(self.schedule, "warmup_steps", 0)
        if warmup < steps:
            return []
        return [f"schedule.warmup_steps {warmup} must be less than the {steps} steps of the training"]


def fitted_to_length(values: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any]:
    """Adapt a training file's settings to a length given by flags.

    A flag ``train.max_steps`` replaces the file's ``epochs``, and vice versa. The file's warm-up becomes a tenth of
    ``max_steps`` if it is not shorter than that; with fewer epochs, it is scaled down with them. Invalid values are
    left for the validation of the settings.
    """
    given, pace, schedule = flags.get("train"), values.get("train"), values.get("schedule", {})
    if not (isinstance(given, dict) and isinstance(pace, dict) and isinstance(schedule, dict)):
        return values
    steps, epochs = _whole(given.get("max_steps")), _whole(given.get("epochs"))
    if (steps is None) == (epochs is None):
        return values
    old_epochs, is_noam = _whole(pace.get("epochs")), schedule.get("kind") == "noam"
    warmup = _whole(schedule.get("warmup_steps", NoamConfig.model_fields["warmup_steps"].default if is_noam else 0))
    if warmup is not None and steps is not None and warmup >= steps:
        schedule = schedule | {"warmup_steps": max(steps // 10, int(is_noam))}
    elif warmup is not None and epochs is not None and old_epochs is not None and epochs < old_epochs:
        schedule = schedule | {"warmup_steps": max(warmup * epochs // old_epochs, int(is_noam))}
    replaced = {"epochs": None} if epochs is None else {"max_steps": None}
    return values | {"train": pace | replaced} | ({"schedule": schedule} if schedule else {})


def _whole(value: Any) -> int | None:
    """Parse a whole number, which is a string if it comes from a flag; None if it is anything else."""
    return int(value) if re.fullmatch(r"[0-9]{1,18}", str(value)) else None


def as_name(text: str) -> str:
    """Turn the name of a file or folder into part of a run's name."""
    return "-".join(re.findall(r"[a-z0-9]+", text.lower()))[:60] or "data"
