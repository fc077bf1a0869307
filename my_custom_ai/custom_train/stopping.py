"""A signal that asks a training on one process or several to end, and how they agree that one has come."""

import signal

import torch
from accelerate import Accelerator

from my_custom_ai.utils.signals import FirstSignal, Stopped, word


class TrainingSignal(FirstSignal):
    """Notes the first signal, so that what is in work can be ended."""

    def stopped(self, message: str) -> Stopped:
        """To be raised when all is saved; another process may have had the signal."""
        number = self.number or signal.SIGTERM
        return Stopped(number, f"{word(number)}: {message}")

    def stop_if_asked(self, accelerator: Accelerator, message: str) -> None:
        """To be called by all processes together.

        Raises:
            Stopped: on all of them, if a signal came to any.
        """
        asked = self.number is not None
        if accelerator.num_processes > 1:
            asked = bool(accelerator.reduce(torch.tensor(float(asked), device=accelerator.device)).item())
        if asked:
            raise self.stopped(message)
