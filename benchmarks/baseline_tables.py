"""Tables of baselines and our models, from the data in docs/results, as the Markdown of docs/baselines.md.

Nothing is measured: python -m benchmarks.baseline_tables
"""

import argparse
import csv
import json
import statistics
from pathlib import Path

from dl_proj.experiments.noise import against_the_best
from dl_proj.tables import Row, markdown, mean_and_deviation

RESULTS = Path(__file__).parents[1] / "docs" / "results"
_FIGURES = (
    *("parameters", "seconds", "examples_per_second", "peak_memory_mib"),
    *("test/accuracy", "test/accuracy_low", "test/accuracy_high"),
)
_TRANSLATORS = {
    "translation-multi30k": "full attention",
    "translation-multi30k-linformer": "Linformer, k = 32",
    "translation-multi30k-reversible": "full attention, reversible",
}


def tables() -> dict[str, str]:
    """All tables, by the name of their dataset."""
    return {
        "digits": markdown(_trained("baselines/digits", "sweep_digits")),
        "mnist14": markdown([*_trained("baselines/mnist14"), *_mnist14_models()]),
        "books": markdown(_books()),
        "multi30k": markdown(_multi30k()),
    }


def _read(path: str) -> list[dict[str, str]]:
    with (RESULTS / path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _trained(*sweeps: str) -> list[Row]:
    """Rows of the variants of several sweeps, which have the same images and seeds."""
    runs: dict[str, list[Row]] = {}
    for sweep in sweeps:
        for row in _read(f"{sweep}/runs.csv"):
            figures = {name: float(value) for name, value in row.items() if name in _FIGURES and value}
            runs.setdefault(row["variant"], []).append(figures)
    against = against_the_best(runs, "test/accuracy", "max")
    return [_row(name, rows, against[name]) for name, rows in runs.items()]


def _row(name: str, rows: list[Row], against: str) -> Row:
    def percent(figure: str) -> str:
        return mean_and_deviation([100 * row[figure] for row in rows])

    low, high = (statistics.fmean(100 * row[f"test/accuracy_{end}"] for row in rows) for end in ("low", "high"))
    return {
        "model": name,
        "parameters": f"{rows[0]['parameters']:,.0f}",
        "test accuracy, %": percent("test/accuracy"),
        "95 %": f"{low:.2f} to {high:.2f}",
        "against the best": against,
        "seconds": mean_and_deviation([row["seconds"] for row in rows]),
        "examples per s": mean_and_deviation([row["examples_per_second"] for row in rows]),
        "peak MiB": mean_and_deviation([row["peak_memory_mib"] for row in rows]),
    }


def _mnist14_models() -> list[Row]:
    """The shipped models, trained with one seed each."""
    return [
        {
            "model": f"`{row['checkpoint']}`, {row['attention']}",
            "parameters": f"{int(row['parameters']):,}",
            "test accuracy, %": f"{100 * float(row['accuracy']):.2f}",
            "against the best": "one seed",
            "seconds": f"{float(row['training seconds']):.0f}",
        }
        for row in _read("evaluation/evaluation.csv")
        if row["checkpoint"].startswith("mnist14-")
    ]


def _books() -> list[Row]:
    """Rows sorted by bits per byte, the highest first."""
    measured = _read("baselines/books/baselines.csv")
    rows = [
        {
            "what": row["baseline"],
            "sees": row["looks back"],
            "entries or parameters": f"{int(row['n-grams']):,}" if row["n-grams"] else "",
            "bits per byte: validation": f"{float(row['val/bits_per_byte']):.3f}",
            "test": f"{float(row['test/bits_per_byte']):.3f}",
            "test by itself": f"{float(row['test alone']):.3f}" if row["test alone"] else "",
            "seconds": f"{float(row['seconds']):.0f}",
        }
        for row in measured
    ]
    rows += [
        {
            "what": f"model: {row['variant']}",
            "sees": "up to 127 bytes",
            "entries or parameters": f"{int(row['parameters']):,}",
            "bits per byte: validation": f"{float(row['val/bits_per_byte']):.3f}",
            "test": f"{float(row['test/bits_per_byte']):.3f}",
            "seconds": f"{float(row['seconds']):.0f}",
        }
        for row in _read("sweep_lm_books/sweep.csv")
    ]
    return sorted(rows, key=lambda row: -float(row["test"]))


def _multi30k() -> list[Row]:
    rows = [
        {
            "what": row["baseline"],
            "BLEU": f"{float(row['BLEU']):.2f}",
            "chrF": f"{float(row['chrF']):.2f}" if row["chrF"] else "",
            "counted by": "its authors, on their tokens" if row["source"] else "sacrebleu, 13a, cased",
        }
        for row in _read("baselines/multi30k/baselines.csv")
    ]
    for name, title in _TRANSLATORS.items():
        scores = json.loads((RESULTS / name / "scores.json").read_text(encoding="utf-8"))
        figures = {figure: f"{scores[figure]:.2f}" for figure in ("BLEU", "chrF")}
        rows.append({"what": f"ours: {title}"} | figures | {"counted by": "sacrebleu, 13a, cased"})
    return sorted(rows, key=lambda row: float(row["BLEU"]))


def main() -> None:
    """Print all tables."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    for name, table in tables().items():
        print(f"{name}\n\n{table}\n")


if __name__ == "__main__":
    main()
