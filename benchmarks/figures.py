"""Draw the pictures of docs/results once more from the CSV and JSON beside them, and the one at the top of the README.

It measures and trains nothing. Each picture is drawn by the function that drew it when its data was measured; PDFs for
papers are written beside the PNGs, and are not committed.

    python -m benchmarks.figures            # all
    python -m benchmarks.figures sweep      # those whose folder has this word in its name
"""

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from dl_proj.experiments.copy.compare import draw_copies
from dl_proj.experiments.images.classification.shift import draw_shifts
from dl_proj.experiments.recall.compare import draw_recall
from dl_proj.experiments.sweep_pictures import draw_sweep
from dl_proj.figure_style import PAGE, Look, legend_below, log_ticks, looks_of, plain_number, style
from dl_proj.pictures import save_for_print
from dl_proj.studies.run import redraw

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
Drawing = Callable[[Path], list[Path]]
"""Draws a folder's pictures, and returns their PNGs."""


def _studies(folder: Path) -> list[Path]:
    return [picture for written in sorted(folder.glob("*.json")) for picture in redraw(written)]


def _sweep(metric: str) -> Drawing:
    return lambda folder: draw_sweep(folder, metric)


FROM_DATA: dict[str, Drawing] = {
    "performance_studies": _studies,
    "performance_studies_long": _studies,
    "pretrained_encoder": _studies,
    "recall_comparison": lambda folder: [draw_recall(folder)],
    "shift_test": lambda folder: [draw_shifts(folder)],
    "synth_comparison_1024": lambda folder: [draw_copies(folder)],
    "sweep_lm_books": _sweep("val/bits_per_byte"),
    "sweep_mlm_books": _sweep("val/perplexity"),
    "sweep_digits": _sweep("val/accuracy"),
    "sweep_lra_listops_short": _sweep("val/accuracy"),
    "sweep_recall": _sweep("val/accuracy"),
}
"""Folders of docs/results, and what draws their pictures."""
BY_COMMAND = {
    "attention_maps/copy/attention.png": "python attention_maps.py --checkpoint synth-gen-lsh-r4",
    "attention_maps/digit/looks.png": (
        "python attention_maps.py --checkpoint mnist-cls-lsh-r4 --input runs/a_three/3_0.png"
    ),
    "attention_maps/translation/attention_cross.png": (
        'python attention_maps.py --checkpoint translation-multi30k --input "Two dogs play in the snow."'
    ),
    "lra/pathfinder32.png": "python lra_examples.py --config dl_proj/configs/lra_pathfinder32.yaml",
    "mnist_generator/grid.png": "python mnist_generator.py",
    "mnist_completed/grid.png": "python mnist_generator.py --complete --per_label 5",
}
"""Pictures of shipped models, and the commands that make them; --output_dir or --output says where they go."""


def headline(*, dark: bool = False) -> Figure:
    """Time of a causal attention layer by length at a fixed number of tokens, on a GPU and on a CPU."""
    ink, paper = ("#e6edf3", "#0d1117") if dark else ("black", "white")
    colours = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    measured = (_on_the_gpu(), _on_the_cpu())
    looks = looks_of(measured[0][1])
    if dark:
        looks = {name: _on_dark(look, ink) for name, look in looks.items()}
    with style(**dict.fromkeys(colours, ink), **{"figure.facecolor": paper, "axes.facecolor": paper}):
        figure = Figure(figsize=(PAGE, 2.7), layout="constrained")
        for panel, (title, curves, unit) in zip(figure.subplots(1, 2), measured, strict=True):
            for name, points in curves.items():
                lengths, times = zip(*sorted(points.items()), strict=True)
                panel.plot(lengths, times, **looks[name].line() | {"linewidth": 1.6, "markersize": 4.5})
            panel.set(title=title, xlabel="tokens per sequence", ylabel=f"forward and backward ({unit})")
            _logarithmic(panel, sorted(curves["full, fused kernel"]))
        legend_below(figure, looks, columns=4)
    return figure


def _logarithmic(panel: Axes, lengths: list[int]) -> None:
    panel.set(xscale="log", yscale="log")
    shown = lengths[::-2] if len(lengths) > 6 else lengths
    panel.set_xticks(shown, [plain_number(length) for length in shown])
    panel.xaxis.set_minor_locator(NullLocator())
    log_ticks(panel.yaxis)
    panel.grid(True)


def _on_dark(look: Look, ink: str) -> Look:
    red, green, blue = to_rgb(look.colour)
    if max(red, green, blue) == 0:
        return replace(look, colour=ink)
    lighter = tuple(value + 0.25 * (1 - value) for value in (red, green, blue))
    return replace(look, colour="#" + "".join(f"{round(255 * value):02x}" for value in lighter))


Times = dict[str, dict[int, float]]
"""By curve and length."""


def _on_the_gpu() -> tuple[str, Times, str]:
    """Milliseconds; the longest sequences, twice the tokens of the others, count half."""
    whole = json.loads((ROOT / "benchmarks/results/gpu_nvidia-h200_layers.json").read_text(encoding="utf-8"))
    names = {
        "full, fused kernel": "flash",
        "LSH-2": "LSH-2, Triton",
        "LSH-4": "LSH-4, Triton",
        "Performer": "Performer, Triton",
    }
    tokens, found = 65_536, Times()
    for shown, name in names.items():
        for case, measured in whole["cases"].items():
            own, length, what = case.split(" / ")
            if own == name and what == "forward and backward":
                share = tokens / (int(length) * measured["batch"])
                found.setdefault(shown, {})[int(length)] = 1000 * share * statistics.median(measured["seconds"])
    return f"{whole['machine']['device']}, bfloat16: time per {tokens:,} tokens", found, "ms"


def _on_the_cpu() -> tuple[str, Times, str]:
    """Seconds."""
    whole = json.loads((ROOT / "benchmarks/results/libraries_cpu.json").read_text(encoding="utf-8"))
    names = {"full, fused kernel": "sdpa", "LSH-2": "LSH-2", "LSH-4": "LSH-4", "Performer": "Performer"}
    found: Times = {name: {} for name in names}
    for result in whole["results"]:
        if result["comparison"] == "overtaking causal sdpa":
            for shown, name in names.items():
                found[shown][result["length"]] = statistics.median(result["cases"][name]["seconds"])
    return f"CPU, {whole['machine']['cores']} cores, float32: time per 16,384 tokens", found, "s"


def draw(word: str = "") -> list[Path]:
    """Draw what is in folders that have this word in their name."""
    drawn = []
    for folder, drawing in FROM_DATA.items():
        if word in folder:
            drawn += drawing(RESULTS / folder)
    if word in "headline":
        for name, dark in (("headline.png", False), ("headline_dark.png", True)):
            save_for_print(headline(dark=dark), RESULTS / name)
            drawn.append(RESULTS / name)
    return drawn


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("word", nargs="?", default="", help="only folders that have it in their name")
    for picture in draw(parser.parse_args().word):
        print(f"drawn: {picture.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
