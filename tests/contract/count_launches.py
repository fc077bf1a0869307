"""Counts what LSH attention launches on a GPU, and the bytes of it, in both forms; runs on fake tensors, without a GPU.

    PYTHONPATH=.:tests/contract python tests/contract/count_launches.py

Each operator of PyTorch that computes counts as one launch, also a sort or a product, which launch more. It counts the
bytes of its arguments and results once; a Triton kernel is listed by its name, without bytes.
"""

import collections
import os

import torch
from fake_cuda import FakeCuda, fake_cuda, gradients, on_cuda
from torch import Tensor
from torch.utils._pytree import tree_leaves

from my_transformers import LSHAttention, kernels, triton_launch

_FREE = (
    "view",
    "empty",
    "transpose",
    "permute",
    "expand",
    "slice",
    "select",
    "squeeze",
    "detach",
    "as_strided",
    "split",
)


def count(form: str, n: int, heads: int, dim: int, rounds: int) -> dict[str, collections.Counter]:
    """Of forward and backward: launches by name, and bytes."""
    os.environ[kernels.VARIABLE] = form
    found: dict[str, collections.Counter] = {"forward": collections.Counter(), "backward": collections.Counter()}
    current = found["forward"]

    def check(self: FakeCuda, func: object, args: tuple, kwargs: dict) -> None:
        name = func._schema.name.split("::")[1]
        if func.namespace == "aten" and not any(word in name for word in _FREE):
            tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
            current["operators"] += 1
            current["MiB"] += sum(x.numel() * x.element_size() for x in tensors) / 2**20

    FakeCuda._check = check
    attention = LSHAttention(n_rounds=rounds, causal=True, max_len=n)
    with fake_cuda():
        triton_launch.launch = lambda kernel, *_, **__: current.update([kernel.fn.__name__])
        on_cuda(attention)
        qk, v = (
            torch.empty(1, n, heads, dim, dtype=torch.bfloat16, device="cuda").transpose(1, 2).requires_grad_()
            for _ in range(2)
        )
        out = attention(qk, v)
        current = found["backward"]
        gradients(out, (qk, v), torch.empty_like(out))
    return found


if __name__ == "__main__":
    for rounds in (2, 4):
        for form in ("torch", "triton"):
            for part, counted in count(form, 65_536, heads=8, dim=64, rounds=rounds).items():
                print(rounds, "rounds,", form, part, {name: round(value) for name, value in counted.items()})
