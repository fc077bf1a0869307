"""What a Performer can be told to estimate; this file imports no torch, so that settings are read at once."""

from typing import Literal, get_args

Kernel = Literal["softmax", "hyperbolic", "relu", "elu", "softplus", "sigmoid", "abs", "unprojected"]
KERNELS: tuple[Kernel, ...] = get_args(Kernel)
