"""performance_studies.py: run the chosen studies; each writes a table, CSV, JSON and pictures as PNG and PDF."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from dl_proj.pictures import save_for_print
from dl_proj.studies.costs import by_depth, by_length, by_rank, of_models
from dl_proj.studies.features import approximation, equivariance, slope
from dl_proj.studies.pictures import Panel, curves, heat_tables, matrices
from dl_proj.studies.pretrained import pretrained
from dl_proj.studies.reconstruction import first_matrices, reconstruction
from dl_proj.studies.settings import PerformanceConfig, ReconstructionConfig, Study
from dl_proj.tables import Row, csv_text, markdown
from my_custom_ai.custom_train import SetupError, start
from my_custom_ai.utils.files import write_text
from my_custom_ai.utils.measure import machine

_COSTS = ("length", "linformer", "depth", "model")
_TOKENS, _SECONDS, _ALLOCATED = "tokens per sequence", "time (s)", "peak memory (MiB)"
_MODES = {"forward": "inference", "train": "training: forward and backward"}


def make_studies(config: PerformanceConfig) -> None:
    """Run the studies one by one; each is written before the next begins.

    Raises:
        SetupError: a study of memory on a device whose peak memory cannot be measured.
    """
    device = start(config.device).device
    if device.type == "mps" and set(config.studies) & set(_COSTS):
        raise SetupError(f"torch cannot measure peak memory on {device.type}; use --device cpu")
    for study in config.studies:
        rows = _measure(study, config, device)
        _print_slopes(study, rows)
        _write(study, rows, config, device)


def _measure(study: Study, config: PerformanceConfig, device: torch.device) -> list[Row]:
    measure: dict[Study, Callable[[Any, int, torch.device], list[Row]]] = {
        "approximation": approximation,
        "equivariance": equivariance,
        "reconstruction": reconstruction,
        "length": by_length,
        "linformer": by_rank,
        "depth": by_depth,
        "model": of_models,
        "pretrained": pretrained,
    }
    return measure[study](getattr(config, study), config.seed, device)


def pictures_of(study: Study, rows: list[Row], settings: dict[str, Any]) -> dict[str, Figure]:
    """Figures by name, from what a study's JSON says; attention matrices are computed anew from its settings."""
    match study:
        case "approximation":
            return {study: _by_features(rows, "mse", "mean squared error", "performer")}
        case "equivariance":
            return {study: _by_features(rows, "change", "relative change of the output", "relative")}
        case "reconstruction":
            config = ReconstructionConfig.model_validate({k: v for k, v in settings.items() if k != "seed"})
            return {study: matrices(first_matrices(config, settings["seed"])), f"{study}_error": _errors(rows)}
        case "length":
            return {f"{study}_{mode}": curves(*_costs(rows, mode)) for mode in ("train", "forward")}
        case "linformer":
            return {study: _savings(rows)}
        case "depth":
            return {study: _memory_by_depth(rows)}
        case "model":
            names = dict.fromkeys(row["architecture"] for row in rows)
            return {f"{study}_{name}": _of_architecture(rows, name) for name in names}
        case "pretrained":
            return {study: _by_size(rows)}


def _print_slopes(study: str, rows: list[Row]) -> None:
    """How fast errors fall with the number of features."""
    figure = {"approximation": "mse", "equivariance": "change"}.get(study)
    drawn = [row for row in rows if row.get("n_features")]
    if figure and len({row["n_features"] for row in drawn}) > 1:
        for curve in dict.fromkeys(row["curve"] for row in drawn):
            print(f"{curve}: falls as n_features^{slope(drawn, curve, figure):.2f}")


def _by_features(rows: list[Row], figure: str, meaning: str, mechanism: str) -> Figure:
    panel = Panel(rows, "n_features", figure, "random features", meaning, error="standard_error")
    return curves(panel, all_of=mechanism)


def _errors(rows: list[Row]) -> Figure:
    meaning = "RMSE of the attention matrix"
    panel = Panel(rows, "rounds", "rmse", "hash rounds", meaning, error="standard_error", log="x")
    return curves(panel, all_of="lsh")


def _costs(rows: list[Row], mode: str, title: str = "") -> list[Panel]:
    """Panels of time and memory by length; the growth of the process, which is about the same, is in the table."""
    own = [row for row in rows if row["mode"] == mode]
    measures = {"seconds": _SECONDS, "allocated_mib": _ALLOCATED}
    return [Panel(own, "length", name, _TOKENS, label, title) for name, label in measures.items()]


def _of_architecture(rows: list[Row], architecture: str) -> Figure:
    own = [row for row in rows if row["architecture"] == architecture]
    return curves(*(panel for mode, title in _MODES.items() for panel in _costs(own, mode, title)))


def _by_size(rows: list[Row]) -> Figure:
    """Agreement with exact attention by each mechanism's own size."""
    sizes = {"n_features": "random features", "rank": "projected tokens", "tokens_seen": "tokens seen"}
    meaning = "rank correlation of similarities"
    return curves(*(Panel(rows, size, "rank_correlation", label, meaning, log="x") for size, label in sizes.items()))


def _savings(rows: list[Row]) -> Figure:
    titles = {"speed_up": "times as fast as full attention", "memory_saving": "times less memory than full attention"}
    labels = {"rank": "k, projected tokens", "length": _TOKENS}
    return heat_tables([row for row in rows if row["rank"]], "rank", "length", titles, labels)


def _memory_by_depth(rows: list[Row]) -> Figure:
    """Draw a panel per length, with the parameters' gradients as an additional curve."""
    panels = []
    lengths = list(dict.fromkeys(row["length"] for row in rows))
    for length in lengths:
        own = [row for row in rows if row["length"] == length]
        first = [row for row in own if row["curve"] == own[0]["curve"]]
        gradients = [
            {"curve": f"parameters' gradients ({row['curve']})"}
            | {"depth": row["depth"], "allocated_mib": row["gradients_mib"]}
            for row in first
        ]
        title = f"{length:,} tokens per sequence"
        panels.append(Panel(own + gradients, "depth", "allocated_mib", "layers", _ALLOCATED, title, log=""))
    return curves(*panels)


def _write(study: Study, rows: list[Row], config: PerformanceConfig, device: torch.device) -> None:
    """Table on the screen; CSV, JSON and pictures in the folder."""
    print(markdown([{name: _short(value) for name, value in row.items()} for row in rows]))
    path = config.output_dir / study
    settings = {"seed": config.seed} | getattr(config, study).model_dump(mode="json")
    record = {"study": study, "machine": machine(device), "settings": settings, "rows": rows}
    write_text(path.with_suffix(".csv"), csv_text(rows))
    write_text(path.with_suffix(".json"), json.dumps(record, indent=2) + "\n")
    pictures = redraw(path.with_suffix(".json"))
    print(f"written: {path}.csv, .json; pictures, .png and .pdf: {', '.join(picture.stem for picture in pictures)}")


def redraw(written: Path) -> list[Path]:
    """Draw the pictures of a study from the JSON that it wrote.

    Returns:
        Their PNGs; the PDFs lie beside them.
    """
    whole = json.loads(written.read_text(encoding="utf-8"))
    paths = []
    for name, picture in pictures_of(whole["study"], whole["rows"], whole["settings"]).items():
        paths.append(written.with_name(f"{name}.png"))
        save_for_print(picture, paths[-1])
    return paths


def _short(value: object) -> object:
    return f"{value:.3g}" if isinstance(value, float) else value
