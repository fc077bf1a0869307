"""Error messages of an interrupted training: where it stopped, and the command that resumes it."""

import contextlib
from collections.abc import Iterator

from dl_proj.commands import COMMANDS
from dl_proj.experiments.settings import ExperimentConfig, NoamConfig
from my_custom_ai.custom_train import NonFiniteLoss, Trainer
from my_custom_ai.custom_train.errors import LostProcess, OutOfMemory, is_lost_process, is_out_of_memory
from my_custom_ai.custom_train.state import StateFile
from my_custom_ai.utils.signals import restated


@contextlib.contextmanager
def saying_how_to_go_on(config: ExperimentConfig, trainer: Trainer) -> Iterator[None]:
    """Add to any error that ends a training the command that resumes it.

    Raises:
        KeyboardInterrupt: a signal.
        NonFiniteLoss: caused by the engine's.
        OutOfMemory: the message names the sizes to reduce.
        LostProcess: another process of this training has ended or hangs.
    """
    resume = f"python {_script(config)}.py --resume {trainer.run.path}"
    try:
        yield
    except KeyboardInterrupt as error:
        raise restated(error, f"{str(error) or 'interrupted'}; {resume} continues from the last saved state") from error
    except NonFiniteLoss as error:
        rate = _lower_rate(config)
        raise NonFiniteLoss(f"{error}. {resume} --optimizer.lr {rate:.2g} resumes there") from error
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise OutOfMemory(_too_large(error, config, trainer, resume)) from error
        if is_lost_process(error):
            raise LostProcess(f"another process has ended or does not respond; {resume} continues") from error
        raise


def _script(config: ExperimentConfig) -> str:
    names = (name for name, command in COMMANDS.items() if command.schema.endswith(f":{type(config).__name__}"))
    return next(names)


def _lower_rate(config: ExperimentConfig) -> float:
    """Return a tenth of the rate, at most 1e-3; with noam, whose lr is only a factor, without that bound."""
    tenth = config.optimizer.lr / 10
    return tenth if isinstance(config.schedule, NoamConfig) else min(tenth, 1e-3)


def _too_large(error: BaseException, config: ExperimentConfig, trainer: Trainer, resume: str) -> str:
    pace = config.train
    key = "batch_size" if hasattr(pace, "batch_size") else "batch_tokens"
    batch = getattr(pace, key)
    sizes = f"train.{key} {batch}, train.accumulate {pace.accumulate}, train.eval_batch_size {pace.eval_batch_size}"
    if trainer.model.training:
        less = f"--train.{key} {max(1, batch // 2)} --train.accumulate {2 * pace.accumulate}"
        how = f"a new run with {less} takes less, with updates of the same size"
    else:
        how = f"{resume} --train.eval_batch_size {max(1, pace.eval_batch_size // 2)} resumes with less"
    reason, saved = OutOfMemory.words(error), StateFile(trainer.run.last_state)
    return f"{reason} after step {trainer.step:,}, with {sizes}; {how}; last state: {saved}"
