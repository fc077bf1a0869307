"""Schemas of what every training has: optimiser, schedule, pace, stopping."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from dl_proj.models.baseline_settings import ImageBaselineConfig
from dl_proj.models.settings import EncoderDecoderConfig, StackConfig
from dl_proj.settings.base import Strict
from dl_proj.tables import Row
from my_custom_ai.custom_train.names import DeviceName, MatmulPrecision, OptimizerName, Precision

_Beta = Annotated[float, Field(ge=0, lt=1)]
MonitorMode = Literal["max", "min"]


class OptimizerConfig(Strict):
    """The optimiser."""

    name: OptimizerName = "adam"
    """which one"""
    lr: float = Field(3e-3, gt=0)
    """the schedule's highest learning rate; adafactor: of its relative steps, which also fall as 1 / sqrt(update), and
    the paper's is 0.01"""
    weight_decay: float = Field(0.0, ge=0)
    """of matrices; vectors are not decayed"""
    betas: tuple[_Beta, _Beta] = (0.9, 0.98)
    """adam, adamw: decay of the moments"""
    eps: float = Field(1e-8, gt=0)
    """adam, adamw: added to the denominator"""


class ConstantConfig(Strict):
    """The same rate all along."""

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
    """warmup_cosine: share of the rate that is left at the end"""


class WarmupLinearConfig(Strict):
    """Linear up, linear down."""

    kind: Literal["warmup_linear"] = "warmup_linear"
    """learning-rate schedule"""
    warmup_steps: int = Field(0, ge=0)
    """updates of linear warm-up"""
    final_factor: float = Field(0.0, ge=0, le=1)
    """warmup_linear: share of the rate that is left at the end"""


class OneCycleConfig(Strict):
    """Half a cosine up, half a cosine down to almost nothing."""

    kind: Literal["one_cycle"] = "one_cycle"
    """learning-rate schedule"""
    warmup_share: float = Field(0.3, ge=0, lt=1)
    """one_cycle: share of the updates that the rate rises"""
    start_divisor: float = Field(25.0, ge=1)
    """one_cycle: the rate starts at lr divided by this"""
    final_divisor: float = Field(1e4, ge=1)
    """one_cycle: and ends at that divided by this"""


class NoamConfig(Strict):
    """The Transformer paper's: up, then down with the root of the step; use lr 1."""

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
    """metric of the validation data that chooses the best weights"""
    mode: MonitorMode = "min"
    """whether it should rise or fall"""
    patience: int | None = Field(None, ge=1)
    """evaluations without improvement after which training stops; null: never"""
    min_delta: float = Field(0.0, ge=0)
    """improvements up to this do not count against patience"""
    target: float | None = None
    """stop as soon as the metric is this good; null: never"""


class PaceConfig(Strict):
    """How much and how often; subclasses say what a batch is."""

    max_steps: int | None = Field(None, ge=1)
    """updates of the weights; give this or epochs"""
    epochs: int | None = Field(None, ge=1)
    """passes over the training data; give this or max_steps"""
    eval_batch_size: int = Field(64, ge=1)
    """examples a batch in evaluation"""
    accumulate: int = Field(1, ge=1)
    """batches per update (and process); their losses are summed, then divided once by all that they count together"""
    clip_norm: float = Field(1.0, ge=0)
    """largest norm of the gradient; 0: any"""
    eval_every: int = Field(100, ge=1)
    """updates between evaluations"""
    save_every: int = Field(100, ge=1)
    """updates between saved states, besides those after each evaluation"""
    save_minutes: float = Field(5.0, gt=0)
    """minutes between two saves at most"""
    wait_minutes: float = Field(10.0, gt=0, le=60 * 24 * 365)
    """until one of several processes that waits for another ends"""
    log_every: int = Field(10, ge=1)
    """updates between rows of training figures"""
    max_eval_batches: int | None = Field(None, ge=1)
    """evaluate on the first so many batches alone; null: on all"""
    precision: Precision = "no"
    """mixed precision"""
    matmul_precision: MatmulPrecision = "highest"
    """of float32 matrix products on CUDA; high rounds factors to TF32 and is faster"""
    device: DeviceName = "auto"
    """where to compute; auto takes the fastest there is"""
    num_workers: int = Field(0, ge=0)
    """processes that load data"""
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)
    """what records curves besides metrics.csv"""
    monitor: MonitorConfig = MonitorConfig()
    """best weights and early stopping"""

    @field_validator("precision", mode="before")
    @classmethod
    def _no_is_a_word(cls, value: Any) -> Any:
        return "no" if value is False else value  # as which YAML 1.1 reads it

    def length_mistakes(self) -> list[str]:
        """Not one of max_steps and epochs; not among ``mistakes``, which would hide those of the whole experiment."""
        if self.max_steps is None and self.epochs is None:
            return ["train: needs max_steps or epochs"]
        if self.max_steps is not None and self.epochs is not None:
            return [f"train: max_steps {self.max_steps} and epochs {self.epochs} are both set: set one of them to null"]
        return []

    def steps_of(self, n_batches: int) -> int:
        """Updates of the weights in all, of ``n_batches`` an epoch and process."""
        if self.max_steps is not None:
            return self.max_steps
        assert self.epochs is not None  # see length_mistakes
        return max(1, self.epochs * n_batches // self.accumulate)


class TrainConfig(PaceConfig):
    """The pace of training."""

    batch_size: int = Field(32, ge=1)
    """examples a batch (and process)"""

    def steps(self, n_examples: int, processes: int = 1) -> int:
        """Updates of the weights in all."""
        return self.steps_of(n_examples // processes // self.batch_size)


class TranslationPaceConfig(PaceConfig):
    """The pace of training on sentence pairs of similar length."""

    batch_tokens: int = Field(4096, ge=1)
    """tokens a batch (and process): its pairs times the longest of their sentences, padding included"""


class ExperimentConfig(Strict):
    """What every training script's configuration has."""

    METRICS: ClassVar[dict[str, MonitorMode]] = {"val/loss": "min"}  # that can be monitored, and the better direction
    LENGTH: ClassVar[str]  # setting that says how many tokens a sequence has
    GRID: ClassVar[bool] = False  # whether these are the places of a grid

    if TYPE_CHECKING:  # a field of every subclass

        @property
        def model(self) -> StackConfig | EncoderDecoderConfig | ImageBaselineConfig:
            """What is trained."""

    experiment_name: str = Field("", pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]*)?$")
    """folder of its runs; not given: named after task, data and attention"""
    runs_dir: Path = Path("runs")
    """where experiments put their folders"""
    seed: int = Field(42, ge=0, lt=2**31)
    """of weights, data, dropout and hashes"""
    init_from: str | None = Field(None, min_length=1)
    """weights to start from: a shipped checkpoint's name, or the folder of a run or of an imported model; without
    --config, also the settings to start from; null: weights are drawn"""
    init_strict: bool = True
    """init_from: refuse weights of another model; false: take those whose names and shapes agree, list the rest"""
    optimizer: OptimizerConfig = OptimizerConfig()
    """the optimiser"""
    schedule: ScheduleConfig = ConstantConfig()
    """the learning-rate schedule, chosen by kind"""
    train: PaceConfig
    """the pace of training"""

    @model_validator(mode="before")
    @classmethod
    def _without_history(cls, values: Any) -> Any:
        """A run's config.yaml also says what was changed on the way, which is no setting."""
        return {key: value for key, value in values.items() if key != "history"} if isinstance(values, dict) else values

    @property
    def metrics(self) -> dict[str, MonitorMode]:
        """What this training can be monitored by, and the better direction."""
        return self.METRICS

    @property
    def tokens_per_example(self) -> int | None:
        """Length of the sequences that the model sees; None: they differ."""
        return None

    @property
    def published(self) -> list[Row]:
        """What papers report for this training, to be printed beside its results."""
        return []

    @property
    def table(self) -> str:
        """Which models it is compared with: those of its task, or of a part of it whose figures mean the same."""
        return str(type(self).model_fields["task"].default)

    @property
    def default_name(self) -> str:
        """Says the task, the data and the attention."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _named(self) -> Self:
        if not self.experiment_name:
            object.__setattr__(self, "experiment_name", self.default_name)  # it is frozen
        return self

    @classmethod
    def beside_flags(cls, values: dict[str, Any], flags: dict[str, Any], path: Path) -> dict[str, Any]:
        """See Strict: a length that flags give replaces the file's."""
        return fitted_to_length(values, flags)

    @classmethod
    def quick(cls) -> dict[str, Any]:
        """The settings that ``--quick`` changes: a few steps and batches, to see whether everything works."""
        often = {"eval_every": 10, "save_every": 10, "log_every": 1}
        return {"train": {"max_steps": 20, "max_eval_batches": 2, **often}}

    def mistakes(self) -> list[str]:
        """See Strict."""
        unused = self.init_from is None and not self.init_strict
        found = ["init_strict: false has no effect without init_from"] if unused else []
        return found + self._monitor_mistakes() + self.train.length_mistakes()

    def _monitor_mistakes(self) -> list[str]:
        """A metric that the training does not give, or the worse direction."""
        monitor = self.train.monitor
        if monitor.metric not in self.metrics:
            return [f"train.monitor.metric {monitor.metric!r} is unknown, must be {' or '.join(self.metrics)}"]
        if monitor.mode != self.metrics[monitor.metric]:
            better = self.metrics[monitor.metric]
            return [f"train.monitor.mode {monitor.mode} must be {better} for {monitor.metric}"]
        return []

    def schedule_mistakes(self, steps: int) -> list[str]:
        """What does not fit a training of so many updates."""
        warmup = getattr(self.schedule, "warmup_steps", 0)
        if warmup < steps:
            return []
        return [f"schedule.warmup_steps {warmup} must be less than the {steps} steps of the training"]


def fitted_to_length(values: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any]:
    """A training file's settings, made to fit the length that flags give.

    ``train.max_steps`` takes the place of the file's ``epochs``, and ``epochs`` that of its ``max_steps``. The file's
    warm-up becomes a tenth of ``max_steps`` if it is not shorter than these; of fewer epochs it keeps its share. What
    is not as it should be is left alone: checking the settings finds it.
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
    """A whole number, which a flag brings as a word; None: it is something else."""
    return int(value) if re.fullmatch(r"[0-9]{1,18}", str(value)) else None


def as_name(text: str) -> str:
    """A word for a run's name, made of a file's or folder's."""
    return "-".join(re.findall(r"[a-z0-9]+", text.lower()))[:60] or "data"
