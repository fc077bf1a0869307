"""performance_studies.py: make the chosen studies; each ends in a table, a CSV and a picture as PNG and PDF."""

from pathlib import Path

from matplotlib.figure import Figure

from dl_proj.configs.performance import PerformanceConfig
from dl_proj.pictures import save_figure
from dl_proj.tables import csv_text, markdown
from dl_proj.tasks.feature_studies import approximation, equivariance, slope
from my_custom_ai.custom_train import start
from my_custom_ai.utils.files import write_text


def make_studies(config: PerformanceConfig) -> None:
    """Measure, print, write."""
    device = start(config.device).device
    for study in config.studies:
        match study:
            case "approximation":
                rows = approximation(config.approximation, config.seed, device)
                _report(rows, "mse", study, "mean squared error of the output", config.output_dir)
            case "equivariance":
                rows = equivariance(config.equivariance, config.seed, device)
                _report(rows, "change", study, "change of the output / output", config.output_dir)


def _report(rows: list[dict], figure: str, study: str, meaning: str, folder: Path) -> None:
    """Table on the screen; CSV and pictures in the folder."""
    curves = list(dict.fromkeys(row["curve"] for row in rows if row["n_features"]))
    print(
        markdown(
            [row | {figure: f"{row[figure]:.3g}", "standard_error": f"{row['standard_error']:.1g}"} for row in rows]
        )
    )
    points = {row["n_features"] for row in rows if row["n_features"]}
    for curve in curves if len(points) > 1 else []:
        print(f"{curve}: falls as n_features^{slope(rows, curve, figure):.2f}")
    write_text(folder / f"{study}.csv", csv_text(rows))
    for suffix in ("png", "pdf"):
        _draw(rows, curves, figure, meaning, folder / f"{study}.{suffix}")
    print(f"written: {folder / study}.csv, .png, .pdf")


def _draw(rows: list[dict], curves: list[str], figure: str, meaning: str, path: Path) -> None:
    """A curve each against the number of features, both axes logarithmic; bars are standard errors."""
    picture = Figure(figsize=(6, 4), layout="constrained")
    panel = picture.add_subplot()
    for curve in curves:
        own = [row for row in rows if row["curve"] == curve]
        x, y, error = ([row[key] for row in own] for key in ("n_features", figure, "standard_error"))
        panel.errorbar(x, y, yerr=error, marker="o", markersize=3, capsize=2, label=curve)
    panel.set(xscale="log", yscale="log", xlabel="random features", ylabel=meaning)
    points = sorted({row["n_features"] for row in rows if row["n_features"]})
    panel.set_xticks(points, [str(point) for point in points])
    panel.set_xticks([], minor=True)
    panel.grid(alpha=0.3, which="both")
    panel.legend()
    save_figure(picture, path)
