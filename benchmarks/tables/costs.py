"""Tables of costs: time and memory of layers, compared with libraries, and of decoding."""

import statistics
from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Any

from benchmarks.contract import CASES
from benchmarks.contract import table as contract_table
from benchmarks.gpu.layers import BOTH
from benchmarks.gpu.layers import tables as tables_of_layers
from benchmarks.tables.pages import Table
from benchmarks.tables.results import BENCHMARKS, by, count, read_csv, read_json
from dl_proj.tables import Row, markdown

_LENGTHS = (1024, 4096, 16_384)
_H200 = {
    "flash": "flash attention",
    "LSH-2, Triton": "LSH-2, Triton",
    "LSH-4, Triton": "LSH-4, Triton",
    "Performer, Triton": "Performer, 256 features, Triton",
    "LSH-2": "LSH-2, PyTorch's operators",
    "LSH-4": "LSH-4, PyTorch's operators",
    "Performer": "Performer, PyTorch's operators",
}


def tables() -> dict[str, Table]:
    """All tables, by name."""
    return {
        "layers_by_length": layers_by_length,
        "libraries": libraries,
        "against_sdpa": against_sdpa,
        "decoding_by_length": decoding_by_length,
        "cached_decoding": cached_decoding,
        "against_libraries": against_libraries,
        "contract": lambda: contract_table(read_json(BENCHMARKS / "contract.json")["results"]),
        "h200_layers": h200_layers,
        "launches_lsh": partial(launches, ("LSH-2", "LSH-4")),
        "launches_performer": partial(launches, ("causal Performer", "bidirectional Performer")),
        "launches_local": partial(launches, ("causal local",)),
    }


def layers_by_length() -> str:
    """Forward and backward of one layer of each mechanism, on 16,384 tokens in sequences of equal length."""
    found = by([row for row in read_csv("performance_studies/length.csv") if row["mode"] == "train"], "curve", "length")
    rows = []
    for curve in dict.fromkeys(curve for curve, _ in found):
        row: Row = {"": curve}
        for length in _LENGTHS:
            if measured := found.get((curve, str(length))):
                row[f"{length:,}"] = f"{float(measured['seconds']):.2f} s, {float(measured['allocated_mib']):,.0f} MiB"
        rows.append(row)
    return markdown(rows)


def _comparisons() -> list[dict[str, Any]]:
    found = read_json(BENCHMARKS / "libraries_cpu.json")["results"]
    names = list(dict.fromkeys(one["comparison"] for one in found))
    return sorted(found, key=lambda one: (names.index(one["comparison"]), one["length"]))


def libraries() -> str:
    """All comparisons with libraries, at all lengths."""
    return markdown([_against(found) for found in _comparisons() if not found["comparison"].startswith("overtaking")])


def _against(found: dict[str, Any]) -> Row:
    measured = {
        case: (statistics.median(one["seconds"]), one["MiB"])
        for case, one in found["cases"].items()
        if case == "ours" or case in found["against"]
    }
    ours = measured.pop("ours")
    best = [min(one[i] for one in measured.values()) for i in range(2)]
    return {
        "layer": found["comparison"],
        "length": f"{found['length']:,}",
        "ours": _cost(ours),
        "library": "; ".join(f"{case} {_cost(one)}" for case, one in measured.items()),
        "time ratio": f"{ours[0] / best[0]:.2f}",
        "memory ratio": f"{ours[1] / best[1]:.2f}",
    }


def _cost(measured: tuple[float, float]) -> str:
    return f"{measured[0]:.2f} s, {measured[1]:,.0f} MiB"


_LIBRARIES = {  # timing comparisons, row in contract.json, whether it decodes with a cache
    "reformer-pytorch": (("LSH, 4 rounds", "LSH, 8 rounds"), "LSH-4, reformer-pytorch", "no"),
    "transformers": (("LSH, 4 rounds", "LSH, 8 rounds"), "LSH-4, transformers", "yes"),
    "performer-pytorch": (("Performer",), "Performer, performer-pytorch", "no"),
    "performer-pytorch, causal": (("Performer, causal",), "causal Performer, performer-pytorch", "no"),
    "linformer": (("Linformer, k = 128", "Linformer, k = 256"), "Linformer, linformer", "never causal"),
    "linformer-pytorch": (("Linformer, k = 128", "Linformer, k = 256"), "Linformer, linformer-pytorch", "never causal"),
}


def against_libraries() -> str:
    """For each library: our time and memory relative to it, and which invariances its outputs lack."""
    checked = read_json(BENCHMARKS / "contract.json")["results"]
    rows = []
    for name, (comparisons, case, decodes) in _LIBRARIES.items():
        library = name.removesuffix(", causal")
        found = [one["cases"] for one in _comparisons() if one["comparison"] in comparisons]
        times = [
            statistics.median(one["ours"]["seconds"]) / statistics.median(one[library]["seconds"]) for one in found
        ]
        memory = [one["ours"]["MiB"] / one[library]["MiB"] for one in found]
        later, padding = (checked[case][check] for check in ("later", "padding"))
        rows.append(
            {
                "library": name,
                "our time": _range(times),
                "our memory": _range(memory),
                "its outputs see later tokens": _verdict(later) if CASES[case].causal else "not causal",
                "its outputs see padding": _verdict(padding),
                "decodes with a cache": decodes,
            }
        )
    return markdown(rows)


def _range(ratios: list[float]) -> str:
    low, high = (f"{one:.2f}" for one in (min(ratios), max(ratios)))
    return f"{low}x" if low == high else f"{low} to {high}x"


def _verdict(moved: float | str) -> str:
    if isinstance(moved, str):
        return moved
    return "no" if moved < 1e-6 else "**yes**"


def against_sdpa() -> str:
    """Seconds by length, next to PyTorch's fused causal attention."""
    return markdown(
        [
            {"length": f"{found['length']:,}"}
            | {case: f"{statistics.median(one['seconds']):.3f}" for case, one in found["cases"].items()}
            for found in _comparisons()
            if found["comparison"].startswith("overtaking")
        ]
    )


def decoding_by_length() -> str:
    """Milliseconds per token, by the length of the text so far."""
    rows = []
    for name, seconds in read_json(BENCHMARKS / "decoding_by_length_cpu.json")["seconds a token"].items():
        part = len(seconds) // 8
        row: Row = {"": name}
        for end in (1, 2, 4, 6, 8):
            median = statistics.median(islice(seconds, (end - 1) * part, end * part))
            row[f"up to {512 * end:,}"] = f"{1000 * median:.2f}"
        rows.append(row)
    return markdown(rows)


def cached_decoding() -> str:
    """Digits drawn with the cache, and by running the model on the whole prefix for every pixel."""
    return markdown(
        [
            {
                "checkpoint": f"`{row['checkpoint']}`",
                "cached, s": f"{row['cached_seconds']:.2f}",
                "recomputed, s": f"{row['recomputed_seconds']:.1f}",
                "ratio": f"{row['ratio']:.1f}",
                "pixels that differ, float32": f"{count(row['different_pixels'])} of {count(row['pixels'])}",
                "float64": f"{row['different_in_float64']}",
            }
            for row in read_json(BENCHMARKS / "cached_decoding.json")["rows"]
        ]
    )


def h200_layers() -> str:
    """Milliseconds of a layer on an H200, forward and backward."""
    results = read_json(BENCHMARKS / "gpu_nvidia-h200_layers.json")
    rows = {row[""]: row for row in tables_of_layers(results)[f"Layers, {BOTH}: milliseconds"]}
    return markdown([rows[name] | {"": title} for name, title in _H200.items()])


_ON_PAPER = {  # GiB of the fused kernels, worked out below the tables of docs/performance.md
    "LSH-2": 3.3,
    "LSH-4": 6.9,
    "causal Performer": 4.7,
    "bidirectional Performer": 1.1,
    "causal local": 1.4,
}


def launches(names: Sequence[str]) -> str:
    """Launches forward and backward, and bytes, of PyTorch's operators and of the fused form."""
    found = read_json(BENCHMARKS / "launches.json")
    rows = []
    for name in names:
        counts = {form: list(found[name].get(form, {}).values()) for form in ("torch", "triton")}
        mebibytes = sum(part["MiB"] for part in counts["torch"])
        rows += [
            {
                "": f"{name}: launches, forward + backward",
                "PyTorch form": _launches(counts["torch"]),
                "fused form": _launches(counts["triton"]),
            },
            {
                "": f"{name}: bytes",
                "PyTorch form": f"{mebibytes / 1024:.3g} GiB",
                "fused form": f"{_ON_PAPER[name]} GiB on paper",
            },
        ]
    return markdown(rows)


def _launches(parts: list[dict[str, int]]) -> str:
    totals = (sum(number for what, number in part.items() if what != "MiB") for part in parts)
    return " + ".join(f"{total:,}" for total in totals) or "some 20 small integer operators and 1, + 2"
