"""Forward and backward of attention layers compared: python benchmarks/libraries.py.

Each case processes 16,384 tokens in sequences of one length, with width 256 and 4 heads, in float32 on a CPU and
bfloat16 on CUDA. Every case has its own process. The processes of a comparison run at the same time and take turns of
two calls, ``--rounds`` times after a warm-up, so that anything that slows the machine down affects all of them; the
median counts. Memory is the peak of PyTorch's allocator in a further call. Ratios are relative to the best of the
libraries to beat.

After each comparison all times are written to libraries_<device>.json in --output_dir, where results of other
comparisons are kept. At the end tables are printed.

Needs requirements-dev.txt.
"""

import json
import statistics
import subprocess
import sys
import time
import warnings
from argparse import SUPPRESS
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))  # the packages are in the parent folder

from benchmarks import layers
from benchmarks.command_line import parser, result_file
from dl_proj.tables import markdown
from my_custom_ai.utils.files import write_text
from my_custom_ai.utils.measure import allocated_peak, machine, seconds_of

TOKENS = 16_384
LENGTHS = (1024, 2048, 4096, 8192, 16_384)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Comparison(NamedTuple):
    """Cases that do the same work."""

    lengths: tuple[int, ...]
    cases: dict[str, Any]  # length -> layer; ours first
    against: tuple[str, ...]  # the cases to beat
    rounds: int | None = None  # overrides --rounds where calls are slow


def _lsh(n_rounds: int) -> Comparison:
    return Comparison(
        LENGTHS,
        {
            "ours": partial(layers.lsh, n_rounds=n_rounds),
            "ours, de-duplicated": partial(layers.lsh, n_rounds=n_rounds, deduplicate=True),
            "ours, default (window 128, de-duplicated)": partial(
                layers.lsh, n_rounds=n_rounds, window=128, deduplicate=True
            ),
            "reformer-pytorch": partial(layers.reformer_pytorch, n_rounds=n_rounds),
            "transformers": partial(layers.transformers_reformer, n_rounds=n_rounds),
        },
        against=("reformer-pytorch", "transformers"),
    )


def _linformer(rank: int) -> Comparison:
    return Comparison(
        (1024, 4096, 16_384),
        {
            "ours": partial(layers.linformer, rank=rank),
            "linformer": partial(layers.linformer_library, rank=rank),
            "linformer-pytorch": partial(layers.linformer_pytorch, rank=rank),
        },
        against=("linformer", "linformer-pytorch"),
    )


def _performer(causal: bool) -> Comparison:
    return Comparison(
        (16_384,) if causal else (1024, 4096, 16_384),
        {
            "ours": partial(layers.performer, causal=causal),
            "performer-pytorch": partial(layers.performer_pytorch, causal=causal),
        },
        against=("performer-pytorch",),
        rounds=1 if causal else None,
    )


def _full(causal: bool) -> Comparison:
    cases = {"ours": partial(layers.full, causal=causal), "sdpa": partial(layers.sdpa, causal=causal)}
    explicit = {"explicit softmax": partial(layers.explicit_softmax, causal=causal)}
    return Comparison((1024, 4096), cases | explicit, against=("sdpa",))


COMPARISONS = {
    "LSH, 4 rounds": _lsh(4),
    "LSH, 8 rounds": _lsh(8),
    "Linformer, k = 128": _linformer(128),
    "Linformer, k = 256": _linformer(256),
    "Performer": _performer(causal=False),
    "full": _full(causal=False),
    "full, causal": _full(causal=True),
    "Performer, causal": _performer(causal=True),
    "overtaking causal sdpa": Comparison(
        (512, *LENGTHS[:-1]),
        {
            **{f"LSH-{r}": partial(layers.lsh, n_rounds=r) for r in (1, 2, 4, 8)},
            "Performer": partial(layers.performer, causal=True),
            "sdpa": partial(layers.sdpa, causal=True),
        },
        against=("sdpa",),
    ),
}


def serve(comparison: str, case: str, length: int) -> None:
    """Answer the requests "time" and "memory" on standard input until it closes."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    dtype = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
    layer = COMPARISONS[comparison].cases[case](length).to(DEVICE, dtype)
    shape = (TOKENS // length, length, layers.SIZES.dim)
    x, gradient = (torch.randn(shape, device=DEVICE, dtype=dtype) for _ in range(2))
    x.requires_grad_()

    def call() -> None:
        layer(x).backward(gradient)
        x.grad = None

    for line in sys.stdin:
        found = seconds_of(call, DEVICE, calls=2, warm_up=0) if line == "time\n" else [allocated_peak(call, DEVICE)]
        print("measured", *found, flush=True)


class Process:
    """The process of one case."""

    def __init__(self, *arguments: str) -> None:
        self.command = [sys.executable, __file__, "--serve", *arguments]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(self.command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdin is not None and self.process.stdout is not None  # both are pipes
        self.questions, self.answers = self.process.stdin, self.process.stdout

    def ask(self, question: str) -> list[float]:
        """Seconds for "time", bytes for "memory"."""
        print(question, file=self.questions, flush=True)
        for line in self.answers:
            if line.startswith("measured "):
                return [float(value) for value in line.split()[1:]]
        raise RuntimeError(f"{' '.join(self.command)} ended with {self.process.wait()}")

    def end(self) -> None:
        """End the process."""
        self.questions.close()
        self.process.wait()


def compare(name: str, length: int, rounds: int) -> dict[str, Any]:
    """All cases of a comparison at one length."""
    comparison = COMPARISONS[name]
    processes = {case: Process(name, case, str(length)) for case in comparison.cases}
    try:
        for process in processes.values():
            process.ask("time")  # warm-up
        seconds: dict[str, list[float]] = {case: [] for case in processes}
        for _ in range(comparison.rounds or rounds):
            for case, process in processes.items():
                seconds[case] += process.ask("time")
        mebibytes = {case: process.ask("memory")[0] / 2**20 for case, process in processes.items()}
    finally:
        for process in processes.values():
            process.end()
    cases = {case: {"seconds": seconds[case], "MiB": mebibytes[case]} for case in processes}
    return {"comparison": name, "length": length, "against": comparison.against, "cases": cases}


def rows_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per case, with ratios to the lowest time and the lowest memory among the cases to beat."""
    cases = found["cases"]
    medians = {case: statistics.median(measured["seconds"]) for case, measured in cases.items()}
    fastest = min(medians[case] for case in found["against"])
    leanest = min(cases[case]["MiB"] for case in found["against"])
    return [
        {
            "length": found["length"],
            "case": case,
            "seconds": f"{medians[case]:.3f}",
            "spread": f"{min(measured['seconds']):.3f} to {max(measured['seconds']):.3f}",
            "time ratio": f"{medians[case] / fastest:.2f}",
            "MiB": f"{measured['MiB']:.0f}",
            "memory ratio": f"{measured['MiB'] / leanest:.2f}",
        }
        for case, measured in cases.items()
    ]


def main(words: list[str] | None = None) -> None:
    """Measure, write, print."""
    options = parser(__doc__)
    options.add_argument("--only", default="", metavar="NAME", help="comparisons whose name contains this")
    options.add_argument("--rounds", type=int, default=2, help="pairs of timed calls per case; default: 2")
    options.add_argument("--serve", nargs=3, help=SUPPRESS)
    arguments = options.parse_args(words)
    if arguments.serve:
        serve(arguments.serve[0], arguments.serve[1], int(arguments.serve[2]))
        return
    path = result_file(arguments, f"libraries_{DEVICE.type}.json")
    results = json.loads(path.read_text())["results"] if path.exists() else []
    todo = [(name, n) for name, one in COMPARISONS.items() if arguments.only in name for n in one.lengths]
    if arguments.rounds < 1:
        options.error(f"argument --rounds: must be 1 or more, got {arguments.rounds}")
    if not todo:
        options.error(f"argument --only: no comparison has {arguments.only!r} in its name: {', '.join(COMPARISONS)}")
    for name, length in tqdm(todo, desc="comparisons"):
        found = compare(name, length, arguments.rounds)
        same = [i for i, old in enumerate(results) if (old["comparison"], old["length"]) == (name, length)]
        results[slice(same[0], same[0] + 1) if same else slice(len(results), None)] = [found]
        today = time.strftime("%Y-%m-%d")
        write_text(path, json.dumps({"date": today, "machine": machine(DEVICE), "results": results}, indent=1) + "\n")
    for name in dict.fromkeys(one["comparison"] for one in results):
        print(f"\n{name}\n")
        print(markdown([row for one in results if one["comparison"] == name for row in rows_of(one)]))
    print(f"\nwritten: {path}")


if __name__ == "__main__":
    main()
