"""Causal attention at length 8192, forward and backward: python benchmarks/causal_performer.py.

Ours against performer-pytorch's pure-PyTorch form and PyTorch's own causal softmax attention, on queries, keys and
values as they come from the projections: batch 1, 4 heads of 64, float32. Every case runs in a process of its own, the
cases in turn, ``ROUNDS`` times; the first of a process's calls warms up. Memory is the process's high-water mark above
what it was before the first call. Prints a table and writes benchmarks/results/causal_performer.json.

Needs requirements-dev.txt.
"""

import contextlib
import io
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))  # the packages lie beside this folder

from dl_proj.tables import markdown
from my_custom_ai.utils.files import write_text
from my_transformers import PerformerAttention

HEADS, HEAD_DIM, LENGTH, N_FEATURES = 4, 64, 8192, 266  # int(64 ln 64) features, performer-pytorch's default
CALLS, ROUNDS = 3, 3
RESULTS = Path(__file__).parent / "results" / "causal_performer.json"


def ours() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """PerformerAttention."""
    return PerformerAttention(HEAD_DIM, n_features=N_FEATURES, causal=True)


def performer_pytorch() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """performer-pytorch without its CUDA extension."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        from performer_pytorch import FastAttention

        return FastAttention(HEAD_DIM, nb_features=N_FEATURES, causal=True)


def sdpa() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """PyTorch's fused softmax attention."""
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)


CASES = {"ours": ours, "performer-pytorch": performer_pytorch, "sdpa": sdpa}


def measure(name: str) -> dict[str, list[float] | float]:
    """Seconds of each call after the first, and MiB, of one case in this process."""
    torch.manual_seed(0)
    attend = CASES[name]()
    tensors = [x.requires_grad_() for x in torch.randn(3, 1, HEADS, LENGTH, HEAD_DIM)]
    gradient = torch.randn_like(tensors[2])
    before, seconds = _high_water(), []
    for _ in range(CALLS + 1):
        start = time.perf_counter()
        torch.autograd.grad(attend(*tensors), tensors, gradient)
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds[1:], "mebibytes": _high_water() - before}


def _high_water() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure, print, write."""
    found: dict[str, list[dict]] = {name: [] for name in CASES}
    for _ in tqdm(range(ROUNDS), desc="rounds"):
        for name, measured in found.items():
            run = subprocess.run([sys.executable, __file__, name], capture_output=True, text=True, check=True)
            measured.append(json.loads(run.stdout.splitlines()[-1]))
    rows = []
    for name, measured in found.items():
        seconds = [s for one in measured for s in one["seconds"]]
        rows.append(
            {
                "attention": name,
                "seconds": round(statistics.median(seconds), 3),
                "fastest": round(min(seconds), 3),
                "slowest": round(max(seconds), 3),
                "MiB": round(statistics.median(one["mebibytes"] for one in measured)),
            }
        )
    for row in rows:
        row["time ratio"] = round(row["seconds"] / rows[0]["seconds"], 1)
        row["memory ratio"] = round(row["MiB"] / rows[0]["MiB"], 1)
    machine = {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    write_text(RESULTS, json.dumps({"machine": machine | {"torch": torch.__version__}, "rows": rows}, indent=2) + "\n")
    print(markdown(rows))
    print(f"written: {RESULTS}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
    else:
        main()
