"""Tables of baselines next to our models."""

import statistics

from benchmarks.tables.pages import Table
from benchmarks.tables.results import count, percent, read_csv, scores
from dl_proj.experiments.noise import against_the_best
from dl_proj.tables import Row, markdown, mean_and_deviation

_FIGURES = (
    *("parameters", "seconds", "examples_per_second", "peak_memory_mib"),
    *("test/accuracy", "test/accuracy_low", "test/accuracy_high"),
)
_TRANSLATORS = {
    "translation-multi30k": "full attention",
    "translation-multi30k-linformer": "Linformer, k = 32",
    "translation-multi30k-reversible": "full attention, reversible",
    "translation-multi30k-large": "full attention, width 256",
}


def tables() -> dict[str, Table]:
    """All tables, by name."""
    return {
        "sweep_digits": lambda: markdown(_trained("sweep_digits")),
        "baselines_digits": lambda: markdown(_trained("baselines/digits", "sweep_digits")),
        "baselines_mnist14": lambda: markdown([*_trained("baselines/mnist14"), *_mnist14_models()]),
        "baselines_books": lambda: markdown(_books()),
        "baselines_multi30k": lambda: markdown(_multi30k()),
    }


def _trained(*sweeps: str) -> list[Row]:
    """Rows of the variants of several sweeps, which have the same images and seeds."""
    runs: dict[str, list[Row]] = {}
    for sweep in sweeps:
        for row in read_csv(f"{sweep}/runs.csv"):
            figures = {name: float(value) for name, value in row.items() if name in _FIGURES and value}
            runs.setdefault(row["variant"], []).append(figures)
    against = against_the_best(runs, "test/accuracy", "max")
    return [_row(name, rows, against[name]) for name, rows in runs.items()]


def _row(name: str, rows: list[Row], against: str) -> Row:
    low, high = (statistics.fmean(100 * row[f"test/accuracy_{end}"] for row in rows) for end in ("low", "high"))
    return {
        "model": name,
        "parameters": count(rows[0]["parameters"]),
        "test accuracy, %": mean_and_deviation([100 * row["test/accuracy"] for row in rows]),
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
            "parameters": count(row["parameters"]),
            "test accuracy, %": percent(row["accuracy"]),
            "against the best": "one seed",
            "seconds": f"{float(row['training seconds']):.0f}",
        }
        for row in read_csv("evaluation/evaluation.csv")
        if row["checkpoint"].startswith("mnist14-")
    ]


def _books() -> list[Row]:
    """Rows sorted by bits per byte, the highest first."""
    measured = read_csv("baselines/books/baselines.csv")
    rows = [
        {
            "what": row["baseline"],
            "sees": row["looks back"],
            "entries or parameters": count(row["n-grams"]) if row["n-grams"] else "",
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
            "entries or parameters": count(row["parameters"]),
            "bits per byte: validation": f"{float(row['val/bits_per_byte']):.3f}",
            "test": f"{float(row['test/bits_per_byte']):.3f}",
            "seconds": f"{float(row['seconds']):.0f}",
        }
        for row in read_csv("sweep_lm_books/sweep.csv")
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
        for row in read_csv("baselines/multi30k/baselines.csv")
    ]
    for name, title in _TRANSLATORS.items():
        found = scores(name)
        figures = {figure: f"{found[figure]:.2f}" for figure in ("BLEU", "chrF")}
        rows.append({"what": f"ours: {title}"} | figures | {"counted by": "sacrebleu, 13a, cased"})
    return sorted(rows, key=lambda row: float(row["BLEU"]))
