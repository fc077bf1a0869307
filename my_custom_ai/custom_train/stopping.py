"""A signal that asks a training to end, and how its processes agree on it."""

import signal

import torch
from accelerate import Accelerator

from my_custom_ai.utils.signals import FirstSignal, Stopped, word


class TrainingSignal(FirstSignal):
    """Records the first signal, so that the update in progress can be finished."""

    def stopped(self, message: str) -> Stopped:
        """The exception to raise once everything is saved; the signal may have reached another process only."""
        number = self.number or signal.SIGTERM
        return Stopped(number, f"{word(number)}: {message}")

    def stop_if_asked(self, accelerator: Accelerator, message: str) -> None:
        """Raise Stopped on all processes if a signal reached any; must be called by all of them.

        Raises:
            Stopped: a signal reached one of the processes.
        """
        asked = self.number is not None
        if accelerator.num_processes > 1:
            asked = bool(accelerator.reduce(torch.tensor(float(asked), device=accelerator.device)).item())
        if asked:
            raise self.stopped(message)
