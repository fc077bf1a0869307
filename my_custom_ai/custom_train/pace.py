"""How long a training is, how large its batches are, and how often it evaluates, saves and reports."""

from dataclasses import dataclass

TRACKERS = ("tensorboard", "wandb")


@dataclass(frozen=True)
class Pace:
    """How much, how often.

    Args:
        total_steps: updates of the weights in all.
        batch_size: examples a batch and process; give this or batch_tokens.
        batch_tokens: bound of a batch and process; see :class:`~my_custom_ai.custom_train.data.TrainingBatches`.
        eval_batch_size: examples a batch in evaluation.
        accumulate: batches per update and process. The update follows the gradient of the mean loss over all that the
            ``accumulate`` batches of all processes count (tokens, examples), as if they were one batch.
        clip_norm: largest norm of the gradient; 0 leaves it as it is.
        eval_every: updates between evaluations on the validation data.
        save_every: updates between saved states besides those after each evaluation.
        log_every: updates between rows of training figures.
        max_eval_batches: evaluate on the first so many batches (of each process) alone; None takes all.
        num_workers: processes that load data.
        trackers: what records curves besides metrics.csv, "tensorboard" or "wandb" or both; see
            :class:`~my_custom_ai.utils.trackers.Curves`.

    Raises:
        ValueError: a number that is too small, both or neither of batch_size and batch_tokens, an unknown tracker.
    """

    total_steps: int
    batch_size: int | None = None
    batch_tokens: int | None = None
    eval_batch_size: int = 64
    accumulate: int = 1
    clip_norm: float = 0.0
    eval_every: int = 100
    save_every: int = 100
    log_every: int = 10
    max_eval_batches: int | None = None
    num_workers: int = 0
    trackers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.batch_size is None) == (self.batch_tokens is None):
            raise ValueError("give batch_size or batch_tokens, one of them")
        at_least_1 = ("total_steps", "batch_size", "batch_tokens", "eval_batch_size", "accumulate")
        for name in (*at_least_1, "eval_every", "save_every", "log_every", "max_eval_batches"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}, must be 1 or more")
        for name in ("clip_norm", "num_workers"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, must be 0 or more")
        if unknown := set(self.trackers) - set(TRACKERS):
            raise ValueError(f"trackers has {', '.join(sorted(unknown))}, may be a tuple of {' and '.join(TRACKERS)}")
