"""Counts what LSH attention and the Performer launch on a GPU, and the bytes of it, in both forms, without a GPU.

    PYTHONPATH=.:tests/contract python tests/contract/count_launches.py

Runs on fake tensors. Each operator of PyTorch that computes counts as one launch, also a sort or a product, which
launch more, and the bytes of its arguments and results count once. A Triton kernel is listed by its name, without
bytes. benchmarks/results/launches.json gets the counts; the tables of docs/performance.md are rendered from it.
"""

import collections
import json
import os
from pathlib import Path

import torch
from fake_cuda import FakeCuda, fake_cuda, gradients, on_cuda
from torch import Tensor
from torch.utils._pytree import tree_leaves

from my_transformers import LocalAttention, LSHAttention, Mechanism, PerformerAttention, kernels, triton_launch

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
    "promote_types",
)
_RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "launches.json"


def count(form: str, mechanism: Mechanism, n: int, heads: int = 8, dim: int = 64) -> dict[str, collections.Counter]:
    """Of forward and backward: launches by name, and bytes."""
    os.environ[kernels.VARIABLE] = form
    found: dict[str, collections.Counter] = {"forward": collections.Counter(), "backward": collections.Counter()}
    current = found["forward"]

    def check(self: FakeCuda, func: object, args: tuple, kwargs: dict) -> None:
        name = func._schema.name.split("::")[1]
        if func.namespace == "aten" and not any(word in name for word in _FREE):
            tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
            current["operators"] += 1
            if name == "zeros":
                current["zeros"] += 1
            current["MiB"] += sum(x.numel() * x.element_size() for x in tensors) / 2**20

    FakeCuda._check = check
    with fake_cuda():
        triton_launch.launch = lambda kernel, *_, **__: current.update([kernel.fn.__name__])
        on_cuda(mechanism)
        inputs = [
            torch.empty(1, n, heads, dim, dtype=torch.bfloat16, device="cuda").transpose(1, 2).requires_grad_()
            for _ in range(2 if mechanism.shared_query_key else 3)
        ]
        out = mechanism(*inputs)
        current = found["backward"]
        gradients(out, inputs, torch.empty_like(out))
    return found


MECHANISMS = {
    "LSH-2": lambda n: LSHAttention(n_rounds=2, causal=True, max_len=n),
    "LSH-4": lambda n: LSHAttention(n_rounds=4, causal=True, max_len=n),
    "causal Performer": lambda _: PerformerAttention(64, causal=True),
    "bidirectional Performer": lambda _: PerformerAttention(64),
    "causal local": lambda _: LocalAttention(causal=True),
}
_ON_PAPER = {("causal local", "triton")}  # FlexAttention's own kernel, which only a GPU can compile


def main() -> None:
    """Count, print and write."""
    found: dict[str, dict[str, dict[str, dict[str, int]]]] = {}
    for name, build in MECHANISMS.items():
        for form in ("torch", "triton"):
            if (name, form) in _ON_PAPER:
                continue
            parts = count(form, build(65_536), 65_536)
            for counted in parts.values():
                zeros = counted.pop("zeros", 0)
                if form == "triton" and name.endswith("Performer"):  # its set_materialize_grads has no effect here
                    counted["operators"] -= zeros
            rounded = {
                part: {what: round(value) for what, value in counted.items()} for part, counted in parts.items()
            }
            found.setdefault(name, {})[form] = rounded
            print(f"{name}, {form}: {rounded}")
    _RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
