"""The device, versions, and the speed limits of the device: TFLOP/s of a matrix product and TB/s of a copy."""

from functools import partial
from importlib import metadata
from typing import Any

import torch

from benchmarks.gpu.results import Results
from benchmarks.gpu.stage import Case, Deadline, arguments, go_through
from my_custom_ai.utils.measure import seconds_within, spread

BUDGET = 0.5  # seconds of timed calls in a case
LIBRARIES = (
    "numpy",
    "triton",
    "transformers",
    "accelerate",
    "reformer-pytorch",
    "performer-pytorch",
    "linformer",
    "linformer-pytorch",
    "flash-linear-attention",
)


def product(device: torch.device, dtype: torch.dtype, size: int) -> dict[str, Any]:
    """Measure a product of two square matrices: 2 n^3 operations."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = seconds_within(partial(torch.mm, a, b), device, budget=BUDGET)
    return {"size": size, "TFLOP/s": spread([2 * size**3 / second / 1e12 for second in seconds])}


def copy(device: torch.device, n_bytes: int) -> dict[str, Any]:
    """Measure a copy on the device, which reads and writes every byte once."""
    source = torch.zeros(n_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = seconds_within(partial(target.copy_, source), device, budget=BUDGET)
    return {"size": n_bytes, "TB/s": spread([2 * n_bytes / second / 1e12 for second in seconds])}


def versions() -> dict[str, Any]:
    """Versions of the libraries that other stages measure; None if a library is not installed."""
    found = dict.fromkeys(LIBRARIES)
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def cases(device: torch.device, tiny: bool) -> list[Case]:
    """All cases, in order."""
    size, n_bytes = (128, 2**16) if tiny else (8192, 2**30)
    return [
        Case("versions", versions, 1),
        Case("bfloat16 product", partial(product, device, torch.bfloat16, size), 5),
        Case("float32 product", partial(product, device, torch.float32, size), 5),
        Case("copy", partial(copy, device, n_bytes), 5),
    ]


def tables(results: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The machine, and its measured limits."""
    measured = {key: case for key, case in results["cases"].items() if "error" not in case}
    limits = [
        {"limit": key, "median": case[unit]["median"], "min": case[unit]["min"], "max": case[unit]["max"], "unit": unit}
        for key, case in measured.items()
        for unit in ("TFLOP/s", "TB/s")
        if unit in case
    ]
    what = results["machine"] | measured.get("versions", {})
    rows = [{"what": key, "is": "not installed" if value is None else str(value)} for key, value in what.items()]
    return {"The machine": rows, "What it reaches": limits}


def main() -> None:
    """Run the stage."""
    given = arguments(__doc__)
    results = Results(given.output, stage="sanity", device=given.device, tiny=given.tiny)
    go_through(cases(given.device, given.tiny), results, Deadline(given.seconds))


if __name__ == "__main__":
    main()
