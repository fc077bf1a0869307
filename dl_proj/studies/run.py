"""performance_studies.py: run the chosen studies; each writes a table, CSV, JSON and pictures as PNG and PDF."""

import json

import torch
from matplotlib.figure import Figure

from dl_proj.pictures import save_figure
from dl_proj.studies.costs import by_depth, by_length, by_rank, of_models
from dl_proj.studies.features import approximation, equivariance, slope
from dl_proj.studies.pictures import Panel, curves, heat_tables, matrices
from dl_proj.studies.reconstruction import reconstruction
from dl_proj.studies.settings import PerformanceConfig, Study
from dl_proj.tables import Row, csv_text, markdown
from my_custom_ai.custom_train import SetupError, start
from my_custom_ai.utils.files import write_text
from my_custom_ai.utils.measure import machine

_COSTS = ("length", "linformer", "depth", "model")
_SECONDS, _ALLOCATED = "seconds", "MiB, allocated at the peak"


def make_studies(config: PerformanceConfig) -> None:
    """Run the studies one by one; each is written before the next begins.

    Raises:
        SetupError: a study of memory on a device whose peak memory cannot be measured.
    """
    device = start(config.device).device
    if device.type == "mps" and set(config.studies) & set(_COSTS):
        raise SetupError(f"torch cannot measure peak memory on {device.type}; use --device cpu")
    for study in config.studies:
        rows, pictures = _make(study, config, device)
        _write(study, rows, pictures, config, device)


def _make(study: Study, config: PerformanceConfig, device: torch.device) -> tuple[list[Row], dict[str, Figure]]:
    """Run a study; returns its rows, and pictures by name."""
    own, seed = getattr(config, study), config.seed
    match study:
        case "approximation":
            rows = approximation(own, seed, device)
            return rows, _features(study, rows, "mse", "mean squared error of the output")
        case "equivariance":
            rows = equivariance(own, seed, device)
            return rows, _features(study, rows, "change", "change of the output / output")
        case "reconstruction":
            rows, seen = reconstruction(own, seed, device)
            return rows, {study: matrices(seen), f"{study}_error": _errors(rows)}
        case "length":
            rows = by_length(own, seed, device)
            return rows, {f"{study}_{mode}": curves(*_costs(rows, mode)) for mode in ("train", "forward")}
        case "linformer":
            rows = by_rank(own, seed, device)
            return rows, {study: _savings(rows)}
        case "depth":
            rows = by_depth(own, seed, device)
            return rows, {study: _memory_by_depth(rows)}
        case "model":
            rows = of_models(own, seed, device)
            return rows, {f"{study}_{name}": _of_architecture(rows, name) for name in own.architectures}


def _features(study: str, rows: list[Row], figure: str, meaning: str) -> dict[str, Figure]:
    """Draw curves against the number of features, and print their exponents."""
    drawn = [row for row in rows if row["n_features"]]
    if len({row["n_features"] for row in drawn}) > 1:
        for curve in dict.fromkeys(row["curve"] for row in drawn):
            print(f"{curve}: falls as n_features^{slope(drawn, curve, figure):.2f}")
    return {study: curves(Panel(rows, "n_features", figure, "random features", meaning, error="standard_error"))}


def _errors(rows: list[Row]) -> Figure:
    meaning = "RMSE of the attention matrix"
    return curves(Panel(rows, "rounds", "rmse", "hash rounds", meaning, error="standard_error", log="x"))


def _costs(rows: list[Row], mode: str, title: str = "") -> list[Panel]:
    """Return panels of time and memory by length."""
    own = [row for row in rows if row["mode"] == mode]
    measures = {"seconds": _SECONDS, "allocated_mib": _ALLOCATED, "process_mib": "MiB, growth of the process"}
    told = [name for name in measures if any(row.get(name) is not None for row in own)]
    return [Panel(own, "length", name, "tokens a sequence", measures[name], title) for name in told]


def _of_architecture(rows: list[Row], architecture: str) -> Figure:
    own = [row for row in rows if row["architecture"] == architecture]
    return curves(*_costs(own, "forward", "inference"), *_costs(own, "train", "training"))


def _savings(rows: list[Row]) -> Figure:
    titles = {"speed_up": "times as fast as full attention", "memory_saving": "times less memory"}
    return heat_tables([row for row in rows if row["rank"]], "rank", "length", titles)


def _memory_by_depth(rows: list[Row]) -> Figure:
    """Draw a panel per length, with the parameters' gradients as an additional curve."""
    panels = []
    for length in dict.fromkeys(row["length"] for row in rows):
        own = [row for row in rows if row["length"] == length]
        first = [row for row in own if row["curve"] == own[0]["curve"]]
        gradients = [
            {"curve": f"parameters' gradients ({row['curve']})"}
            | {"depth": row["depth"], "allocated_mib": row["gradients_mib"]}
            for row in first
        ]
        panels.append(
            Panel(own + gradients, "depth", "allocated_mib", "layers", _ALLOCATED, f"{length} tokens", log="")
        )
    return curves(*panels)


def _write(
    study: Study, rows: list[Row], pictures: dict[str, Figure], config: PerformanceConfig, device: torch.device
) -> None:
    """Print the table; write CSV, JSON and pictures."""
    print(markdown([{name: _short(value) for name, value in row.items()} for row in rows]))
    path = config.output_dir / study
    settings = {"seed": config.seed} | getattr(config, study).model_dump(mode="json")
    record = {"study": study, "machine": machine(device), "settings": settings, "rows": rows}
    write_text(path.with_suffix(".csv"), csv_text(rows))
    write_text(path.with_suffix(".json"), json.dumps(record, indent=2) + "\n")
    for name, picture in pictures.items():
        for suffix in (".png", ".pdf"):
            save_figure(picture, path.with_name(name).with_suffix(suffix))
    print(f"written: {path}.csv, .json; pictures, .png and .pdf: {', '.join(pictures)}")


def _short(value: object) -> object:
    return f"{value:.3g}" if isinstance(value, float) else value
