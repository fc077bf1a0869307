"""The length of a training, its batch sizes, and how often it evaluates, saves and logs."""

from dataclasses import dataclass

TRACKERS = ("tensorboard", "wandb")


@dataclass(frozen=True)
class Pace:
    """Length, batch sizes and intervals of a training.

    Args:
        total_steps: total number of updates of the weights.
        batch_size: examples per batch and process; give either this or batch_tokens.
        batch_tokens: size limit per batch and process; see :class:`~my_custom_ai.custom_train.data.TrainingBatches`.
        similar_sizes: with batch_size: a batch has examples of similar size, which saves padding; the dataset needs
            ``sizes``.
        eval_batch_size: examples per batch in evaluation.
        accumulate: batches per update and process. The update follows the gradient of the mean loss over all items
            (tokens, examples) in these batches of all processes, as if they were one batch.
        clip_norm: maximum norm of the gradient; 0: no clipping.
        eval_every: updates between evaluations on the validation data.
        save_every: updates between saved states; a state is also saved after each evaluation.
        save_minutes: a state is also saved after an update if the last save was more than this many minutes ago.
        log_every: updates between rows of training figures.
        max_eval_batches: maximum number of batches of each process in an evaluation; None: all.
        num_workers: the number of data-loading processes.
        trackers: trackers besides metrics.csv, "tensorboard" or "wandb" or both; see
            :class:`~my_custom_ai.utils.trackers.Curves`.

    Raises:
        ValueError: a number that is too small, both or neither of batch_size and batch_tokens, or an unknown tracker.
    """

    total_steps: int
    batch_size: int | None = None
    batch_tokens: int | None = None
    similar_sizes: bool = False
    eval_batch_size: int = 64
    accumulate: int = 1
    clip_norm: float = 0.0
    eval_every: int = 100
    save_every: int = 100
    save_minutes: float = 5.0
    log_every: int = 10
    max_eval_batches: int | None = None
    num_workers: int = 0
    trackers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.batch_size is None) == (self.batch_tokens is None):
            raise ValueError("give either batch_size or batch_tokens")
        at_least_1 = ("total_steps", "batch_size", "batch_tokens", "eval_batch_size", "accumulate")
        for name in (*at_least_1, "eval_every", "save_every", "log_every", "max_eval_batches"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}, must be at least 1")
        if not self.save_minutes > 0:
            raise ValueError(f"save_minutes is {self.save_minutes}, must be above 0")
        for name in ("clip_norm", "num_workers"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least 0")
        if unknown := set(self.trackers) - set(TRACKERS):
            raise ValueError(f"trackers has {', '.join(sorted(unknown))}, allowed are {' and '.join(TRACKERS)}")
