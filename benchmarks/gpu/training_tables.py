"""Tables of the trainings on a GPU: means over seeds, next to the papers' figures."""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

from dl_proj.experiments.copy.compare import PAPER as REFORMER_TABLE_2
from dl_proj.experiments.long_range.published import published_rows

Values = dict[str, Any]
Rows = list[dict[str, Any]]

_TITLES_OF_COPY = {"full": "full", "lsh-4": "LSH-4", "lsh-2": "LSH-2", "lsh-1": "LSH-1"}
# Horn et al. 2021, results in the authors' repository: test accuracy in percent on MNIST enlarged to 32 x 32 pixels,
# and accuracy on the digit one shifted to the right by this many of these pixels
HORN = {
    "performer": {"test": 98.85, "-8": 25.8, "-4": 90.7, "-2": 98.8, "0": 99.3, "2": 99.2, "4": 98.5, "8": 58.2},
    "relative": {"test": 98.77, "-8": 100.0, "-4": 99.9, "-2": 100.0, "0": 100.0, "2": 100.0, "4": 100.0, "8": 99.6},
}


def tables(results: dict[str, Any]) -> dict[str, Rows]:
    """One table per experiment in ``results`` (the stage's JSON), by its title; and one of failures.

    A cell is the mean over seeds, ± the sample standard deviation if there are several, with the paper's figure, if
    any, in brackets.
    """
    cases = results["cases"]
    found = {}
    for name, (title, rows_of) in _TABLES.items():
        variants = _by_variant(name, cases)
        if variants:
            found[title] = rows_of(variants)
    failed = [{"training": key, "error": values["error"]} for key, values in cases.items() if "error" in values]
    if failed:
        found["Trainings that failed"] = failed
    return found


def mean_and_deviation(values: list[float], digits: int = 2, paper: float | None = None) -> str:
    """A cell such as "99.87 ± 0.02 (99.9)"."""
    text = f"{statistics.fmean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values):.{digits}f}"
    return text if paper is None else f"{text} ({paper:.1f})"


def _by_variant(experiment: str, cases: dict[str, Values]) -> dict[str, list[Values]]:
    """The values of the completed seeds of each variant."""
    found: dict[str, list[Values]] = {}
    for values in cases.values():
        if "figures" in values and values["experiment"] == experiment:
            found.setdefault(values["variant"], []).append(values)
    return found


def _copy(variants: dict[str, list[Values]]) -> Rows:
    rows = []
    for variant, seeds in variants.items():
        trained = _TITLES_OF_COPY[variant]
        row = {"trained with": trained} | _trained(seeds)
        for way in seeds[0]["test"]:
            accuracies = [values["test"][way] for values in seeds]
            row[f"eval {way}"] = mean_and_deviation(accuracies, paper=REFORMER_TABLE_2[trained].get(way))
        rows.append(row | _speed(seeds))
    return rows


def _mnist(variants: dict[str, list[Values]]) -> Rows:
    rows = []
    for variant, seeds in variants.items():
        paper = HORN[variant]
        accuracy = [100 * values["figures"]["test/accuracy"] for values in seeds]
        row = {"attention": variant, "parameters": seeds[0]["figures"]["parameters"]} | _trained(seeds)
        row["test accuracy"] = mean_and_deviation(accuracy, paper=paper["test"])
        for shift in seeds[0]["test"]:
            if shift in paper:
                moved = [values["test"][shift] for values in seeds]
                row[f"moved by {shift}"] = mean_and_deviation(moved, 1, paper.get(shift))
        rows.append(row | _speed(seeds))
    return rows


def _books(variants: dict[str, list[Values]]) -> Rows:
    def bits(values: Values) -> float:
        return values["figures"]["test/bits_per_byte"]

    full = statistics.fmean(map(bits, variants["full"])) if "full" in variants else None
    rows = []
    for variant, seeds in variants.items():
        found = [bits(values) for values in seeds]
        row = {"attention": variant, "parameters": seeds[0]["figures"]["parameters"]} | _trained(seeds)
        row["test bits per byte"] = mean_and_deviation(found, 3)
        row["to full"] = None if full is None else f"{100 * (statistics.fmean(found) / full - 1):+.1f} %"
        rows.append(row | _speed(seeds))
    return rows


def _long_range(task: str, variants: dict[str, list[Values]]) -> Rows:
    rows = []
    for variant, seeds in variants.items():
        found = [100 * values["figures"]["test/accuracy"] for values in seeds]
        row = {"attention": variant, "parameters": seeds[0]["figures"]["parameters"]} | _trained(seeds)
        row["test accuracy"] = mean_and_deviation(found)
        for published in published_rows(task, [variant.split("-")[0]]):
            row[published["source"]] = f"{100 * published['test accuracy']:.2f}"
        rows.append(row | _speed(seeds))
    return rows


def _recall(variants: dict[str, list[Values]]) -> Rows:
    rows = []
    for variant, seeds in variants.items():
        row = {"attention": variant, "state, bytes": seeds[0]["figures"]["state_bytes"]} | _trained(seeds)
        for title, name in (("test accuracy", "test/accuracy"), ("decoded", "test/decoded_accuracy")):
            row[title] = mean_and_deviation([100 * values["figures"][name] for values in seeds])
        rows.append(row | _speed(seeds))
    return rows


def _multi30k(variants: dict[str, list[Values]]) -> Rows:
    rows = []
    for variant, seeds in variants.items():
        row = {"model": variant, "parameters": seeds[0]["figures"]["parameters"]} | _trained(seeds)
        for name in ("BLEU", "chrF", "perplexity"):
            row[name] = mean_and_deviation([values["test"][name] for values in seeds])
        row["BLEU, greedy"] = mean_and_deviation([values["figures"]["test/bleu"] for values in seeds])
        rows.append(row | _speed(seeds))
    return rows


def _trained(seeds: list[Values]) -> Values:
    steps = [values["figures"]["steps"] for values in seeds]
    return {"seeds": len(seeds), "updates": round(statistics.fmean(steps))}


def _speed(seeds: list[Values]) -> Values:
    """Training minutes, including evaluations; and tokens per second, without them."""
    minutes = statistics.fmean(values["figures"]["seconds"] for values in seeds) / 60
    found: Values = {"minutes": f"{minutes:.1f}"}
    tokens = [values["tokens_per_second"] for values in seeds]
    return found if None in tokens else found | {"tokens per second": round(statistics.fmean(tokens))}


_TABLES: dict[str, tuple[str, Callable[[dict[str, list[Values]]], Rows]]] = {
    "copy": (
        "Copy task, accuracy in % by attention in training and evaluation (in brackets: Kitaev et al. 2020, table 2)",
        _copy,
    ),
    "multi30k": ("Multi30k, English to German, beams of 4", _multi30k),
    "listops": ("ListOps, accuracy in %, with published figures", partial(_long_range, "listops")),
    "pathfinder": (
        "Pathfinder, 32 x 32, accuracy in %, with published figures for the benchmark's own pictures",
        partial(_long_range, "pathfinder"),
    ),
    "recall": ("Associative recall, answers right in %", _recall),
    "books": ("Bytes of books", _books),
    "mnist": (
        "MNIST, 28 x 28 pixels, accuracy in %, also of ones moved to the right (in brackets: Horn et al. 2021, images "
        "of 32 x 32)",
        _mnist,
    ),
}
