"""The progress bar of a training."""

from typing import NoReturn

from accelerate import Accelerator
from tqdm import tqdm

from my_custom_ai.custom_train.pace import Pace


def progress_bar(title: str, step: int, pace: Pace, accelerator: Accelerator) -> "tqdm[NoReturn]":
    """A bar of the updates from ``step`` on, which the main process alone shows."""
    return tqdm(
        initial=step,
        total=pace.total_steps,
        unit="step",
        desc=title,
        dynamic_ncols=True,
        disable=not accelerator.is_main_process,
    )
