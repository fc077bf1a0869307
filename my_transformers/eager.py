"""A decorator for functions that torch.compile must not trace."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

_P = ParamSpec("_P")
_R = TypeVar("_R")


def eager(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """``torch.compiler.disable`` that keeps the function's type, which PyTorch's own decorator loses."""
    return torch.compiler.disable(function)
