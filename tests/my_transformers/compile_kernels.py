"""Compiles each kernel that LSH attention and the Performer launch for an H100, without a GPU, and prints its cost.

    PYTHONPATH=. python tests/my_transformers/compile_kernels.py            # what the test compiles
    PYTHONPATH=. python tests/my_transformers/compile_kernels.py --all      # all head sizes and dtypes
    PYTHONPATH=. python tests/my_transformers/compile_kernels.py --all --only performer

The launch code runs on tensors without memory; a launch is replaced by a compilation with the same arguments.
"""

import argparse
import itertools
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from my_transformers import triton_launch
from my_transformers.lsh import triton_attention, triton_hashing
from my_transformers.performer import triton_attention as performer

POINTERS = {
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float32: "*fp32",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.bool: "*i1",
}
ALL = tuple(itertools.product((32, 64, 128, 256), (torch.bfloat16, torch.float16, torch.float32)))
_compiled: set[str] = set()


def specialized(kernel: Any, arguments: tuple) -> tuple[dict[str, str], dict[str, int], dict]:
    """Types, constants and divisibility that Triton would derive from a launch's arguments."""
    types, constants, divisible = {}, {}, {}
    for i, (name, given) in enumerate(zip(kernel.arg_names, arguments, strict=False)):
        free = name not in (kernel.do_not_specialize or ())
        if isinstance(given, torch.Tensor):
            types[name], is_divisible = POINTERS[given.dtype], True
        elif isinstance(given, float):
            types[name], is_divisible = "fp32", False
        elif given == 1 and free:
            types[name], constants[name], is_divisible = "constexpr", 1, False
        else:
            types[name], is_divisible = "i32" if given < 2**31 else "i64", free and given % 16 == 0
        if is_divisible:
            divisible[(i,)] = [["tt.divisibility", 16]]
    return types, constants, divisible


def compile_launch(
    kernel: Any, programs: int, arguments: tuple, constants: dict[str, Any], warps: int, stages: int = 1
) -> None:
    """Takes the place of triton_launch.launch."""
    types, ones, divisible = specialized(kernel, arguments)
    constants = constants | ones
    source = ASTSource(kernel, types | dict.fromkeys(constants, "constexpr"), constants, divisible)
    if source.hash() in _compiled:
        return
    _compiled.add(source.hash())
    options = {"num_warps": warps, "num_stages": stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    about = " ".join(f"{name}={value}" for name, value in constants.items() if name.isupper())
    rows = types.get("qk") or types.get("q") or types.get("k") or ""
    print(
        f"{kernel.__module__.split('.')[-2]} {kernel.__name__} {rows} {about}, {warps} warps: {usage(compiled)}",
        flush=True,
    )


def usage(compiled: Any) -> str:
    """Registers of a thread, bytes of them that went to memory, and shared memory of a program."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        report = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", report)
    spills = f"{found[1]} registers, {found[2]} B stack" if found else "registers unknown"
    return f"{spills}, {compiled.metadata.shared} B shared"


def attend_in_buckets(
    sizes: tuple[int, int, int, int], dtype: torch.dtype, *, rounds: int = 2, dropout: float = 0.0, real: bool = True
) -> None:
    """Hash (b, h, n, d), one forward and one backward."""
    batch, heads, n, dim = sizes
    x = torch.empty(batch, n, heads, dim, dtype=dtype, device="meta").transpose(1, 2)
    rotations = torch.empty(heads, rounds, dim, -(-n // 128), dtype=dtype, device="meta")
    limits = torch.empty(batch, dtype=torch.int64, device="meta") if real else None
    triton_hashing.bucket_of._init_fn(x, rotations, limits)
    places = torch.empty(rounds, batch, heads, n, dtype=torch.int32, device="meta")
    seeds = torch.empty(2, batch, heads, n, dtype=torch.int32, device="meta")
    marks = torch.empty(batch, heads, n, dtype=torch.bool, device="meta") if real else None
    tensors, settings = (x, x, places, places, places, seeds), (True, dropout)
    layout = [n, min(64, n), 2, 0, int(dropout > 0)]
    kept = triton_attention._attention._init_fn(*tensors, marks, layout, True, *settings)
    triton_attention._attention_backward._init_fn(kept[0], *tensors, *kept, layout, *settings)


def attend_by_features(
    sizes: tuple[int, int, int, int], dtype: torch.dtype, *, n_features: int = 256, real: bool = True
) -> None:
    """One forward and one backward, to all and to earlier keys."""
    batch, heads, n, dim = sizes
    x = torch.empty(batch, n, heads, dim, dtype=dtype, device="meta").transpose(1, 2)
    directions = torch.empty(n_features, dim, device="meta")
    mask = torch.empty(batch, n, dtype=torch.bool, device="meta") if real else None
    inputs = x, x, x, directions
    kept = performer._bidirectional._init_fn(*inputs, mask)
    performer._bidirectional_backward._init_fn(x, *inputs, mask, *kept)
    kept = performer._causal._init_fn(*inputs, mask)
    performer._causal_backward._init_fn(x, *inputs, *kept)


def lsh(*, everything: bool) -> None:
    """Head sizes, dtypes and dropout."""
    attend_in_buckets((2, 8, 1024, 64), torch.bfloat16)
    attend_in_buckets((1, 1, 1, 5), torch.float16, rounds=1, dropout=0.1, real=False)  # strides of 1 become constants
    for dim, dtype in ALL if everything else ():
        for dropout in (0.0, 0.1):
            attend_in_buckets((2, 8, 1024, dim), dtype, dropout=dropout)


def features(*, everything: bool) -> None:
    """Head sizes and dtypes."""
    attend_by_features((2, 8, 1024, 64), torch.bfloat16)
    attend_by_features((1, 1, 1, 5), torch.float16, n_features=1, real=False)
    for dim, dtype in ALL if everything else ():
        attend_by_features((2, 8, 1024, dim), dtype)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--only", choices=("lsh", "performer"))
    given = parser.parse_args()
    triton_launch.launch = compile_launch
    for name, kernels in {"lsh": lsh, "performer": features}.items():
        if given.only in (None, name):
            kernels(everything=given.all)


if __name__ == "__main__":
    main()
