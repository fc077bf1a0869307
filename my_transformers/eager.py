"""Functions that torch.compile leaves to Python."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

_P = ParamSpec("_P")
_R = TypeVar("_R")


def eager(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """``torch.compiler.disable``, which loses the types of what it decorates."""
    return torch.compiler.disable(function)
