"""Tables of results of trained models: copying, images, positions, language, translation, recall."""

import re
from functools import partial

from benchmarks.tables.pages import Table
from benchmarks.tables.results import RESULTS, by, count, percent, read_csv, read_json, scores
from dl_proj.tables import Row, markdown

TRANSLATORS = {
    "translation-multi30k": "full",
    "translation-multi30k-linformer": "Linformer, k = 32",
    "translation-multi30k-reversible": "full, reversible layers on both sides",
    "translation-multi30k-large": "full, width 256",
}
_NOT_COMPARED = ("translation-multi30k", "translation-multi30k-large")
_SHIFTS = (-8, -4, -2, 0, 2, 4, 8)
_MASKED = {
    "full": "full",
    "k32": "Linformer, k = 32, shared by the heads",
    "k64": "Linformer, k = 64, shared by the heads",
    "k128": "Linformer, k = 128, shared by the heads",
    "k256": "Linformer, k = 256, shared by the heads",
    "k64-none": "Linformer, k = 64, one per head",
    "k64-key_value": "Linformer, k = 64, shared by keys and values, too",
    "k64-layerwise": "Linformer, k = 64, shared by the layers, too",
    "k64-matrix": "Linformer, k = 64, learned matrices",
}
_CAUSAL = {
    "full": "full",
    "shared_qk": "shared query-key",
    "lsh-2": "LSH, 2 rounds",
    "reversible-lsh-2": "LSH, 2 rounds, reversible",
    "lsh-4": "LSH, 4 rounds",
    "lsh-8": "LSH, 8 rounds",
    "performer": "Performer, 128 features",
    "causal_linformer": "block-causal Linformer, blocks of 32 as 8",
}


def tables() -> dict[str, Table]:
    """All tables, by name."""
    return {
        "pretrained_encoder": pretrained_encoder,
        "copy_196": partial(copying, "synth_comparison"),
        "copy_1024": partial(copying, "synth_comparison_1024"),
        "mnist": classification,
        "mnist_generation": generation,
        "shifts": shifts,
        "lm_books": causal_books,
        "mlm_books": masked_books,
        "multi30k": translation,
        "multi30k_sentences": sentences,
        "recall": recall,
    }


def copying(folder: str) -> str:
    """Accuracy by the attention in training and in evaluation; at its length, with the paper's figures in brackets."""
    rows: dict[str, Row] = {}
    for found in read_csv(f"{folder}/table.csv"):
        row = rows.setdefault(found["checkpoint"], {"trained with": found["trained"]})
        paper = f" ({float(found['paper']):g})" if found["length"] == "1024" else ""
        row[found["evaluated"]] = f"{float(found['accuracy']):.2f}{paper}"
    return markdown(list(rows.values()))


def classification() -> str:
    """The shipped classifiers of MNIST in patches."""
    return markdown(
        [
            {
                "checkpoint": f"`{row['checkpoint']}`",
                "attention": row["attention"],
                "parameters": count(row["parameters"]),
                "test accuracy, %": percent(row["accuracy"]),
            }
            for row in read_csv("evaluation/evaluation.csv")
            if row["checkpoint"].startswith(("mnist-cls", "mnist-judge"))
        ]
    )


def generation() -> str:
    """The shipped image generators: bits per dimension, and the share of drawn digits that a classifier recognises."""
    found = by(read_csv("evaluation/evaluation.csv"), "checkpoint")
    names = ("mnist-gen-full-144", "mnist-gen-lsh-r4-144", "mnist-gen-lsh-r2-144", "mnist-gen-lsh-r1-144")
    full = float(found[names[0]]["bits_per_dim"])
    judged = [read_json(path) for path in (RESULTS / "mnist_generator").glob("*/judge.json")]
    recognised = {(one["checkpoint"], one["top_p"]): one["recognised"] / one["images"] for one in judged}
    rows = []
    for name in names:
        bits = float(found[name]["bits_per_dim"])
        rows.append(
            {
                "checkpoint": f"`{name}`",
                "attention": found[name]["attention"],
                "parameters": count(found[name]["parameters"]),
                "bits per dim": f"{bits:.3f}",
                "against full": f"{100 * (bits / full - 1):+.1f} %" if bits != full else "",
            }
            | {f"recognised, top-p {top_p:g}": f"{percent(recognised[name, top_p], 1)} %" for top_p in (1.0, 0.95)}
        )
    return markdown(rows)


def shifts() -> str:
    """Accuracy of the 14 x 14 classifiers, on all test images and on horizontally shifted images of the digit 1."""
    moved = by(read_csv("shift_test/shifts.csv"), "checkpoint", "shift")
    rows = []
    for name in dict.fromkeys(checkpoint for checkpoint, _ in moved):
        found = by(read_csv("evaluation/evaluation.csv"), "checkpoint")[name]
        row = {
            "checkpoint": f"`{name}`",
            "attention": found["attention"],
            "parameters": count(found["parameters"]),
            "test accuracy, %": percent(found["accuracy"]),
        }
        row |= {
            f"moved by {shift}" if shift == _SHIFTS[0] else f"{shift}": _at(moved, name, shift) for shift in _SHIFTS
        }
        rows.append(row)
    return markdown(rows)


def _at(moved: dict[tuple[str, str], dict[str, str]], name: str, shift: int) -> str:
    return percent(moved[name, str(shift)]["accuracy"], 1)


def causal_books() -> str:
    """The causal models trained on books."""
    found = by(read_csv("sweep_lm_books/sweep.csv"), "variant")
    full = float(found["full"]["test/bits_per_byte"])
    return markdown(
        [
            {
                "attention": title,
                "parameters": count(found[name]["parameters"]),
                "bits per byte, validation": f"{float(found[name]['val/bits_per_byte']):.3f}",
                "test": f"{float(found[name]['test/bits_per_byte']):.3f}",
                "test, against full": f"{100 * (float(found[name]['test/bits_per_byte']) / full - 1):+.1f} %",
            }
            for name, title in _CAUSAL.items()
        ]
    )


def masked_books() -> str:
    """The masked models trained on books."""
    found = by(read_csv("sweep_mlm_books/sweep.csv"), "variant")
    return markdown(
        [
            {
                "attention": title,
                "parameters": count(found[name]["parameters"]),
                "perplexity, validation": f"{float(found[name]['val/perplexity']):.2f}",
                "test": f"{float(found[name]['test/perplexity']):.2f}",
                "test accuracy, %": percent(found[name]["test/accuracy"], 1),
            }
            for name, title in _MASKED.items()
        ]
    )


def translation() -> str:
    """The translation models of Multi30k."""
    full = scores("translation-multi30k")["BLEU"]
    return markdown(
        [
            {
                "encoder's attention": title,
                "configuration": f"`{name.replace('-', '_')}.yaml`",
                "BLEU": f"{found['BLEU']:.2f}",
                "against full, same size": "" if name in _NOT_COMPARED else f"{found['BLEU'] - full:+.2f}",
                "chrF": f"{found['chrF']:.2f}",
                "perplexity": f"{found['perplexity']:.2f}",
            }
            for name, title, found in ((name, title, scores(name)) for name, title in TRANSLATORS.items())
        ]
    )


def sentences() -> str:
    """Every hundredth test sentence, translated with full attention at width 256."""
    return markdown(
        [
            {"source": row["source"], "reference": row["reference"], "translation": row["hypothesis"]}
            for row in read_csv("translation-multi30k-large/translations.csv")[99::100]
        ]
    )


def recall() -> str:
    """Associative recall, from the smallest to the largest state."""
    return markdown(
        [
            {
                "second layer": re.sub(r"n_features (\d+)", r"\1 features", row["attention"].removeprefix("local, ")),
                "state, bytes": count(row["state_bytes"]),
                "accuracy, mean of three seeds": f"{float(row['accuracy']):.4f} ± {float(row['accuracy std']):.4f}",
                "best seed": f"{float(row['accuracy best']):.4f}",
            }
            for row in read_csv("recall_comparison/table.csv")
        ]
    )


def pretrained_encoder() -> str:
    """all-MiniLM-L6-v2 with other attention in all layers, before and after fine-tuning."""
    found = by(read_csv("pretrained_encoder/pretrained.csv"), "curve", "n_features", "rank", "tokens_seen")
    rows: list[Row] = []
    for (curve, *size), swapped in found.items():
        if swapped["fine-tuned"] == "yes":
            continue
        words = (("n_features", "features"), ("rank", "projected tokens"), ("tokens_seen", "tokens seen"))
        sized = [f"{count(swapped[column])} {word}" for column, word in words if swapped[column]]
        row: Row = {"attention": ", ".join([curve, *sized]) if curve != "local, itself only" else curve}
        tuned = found.get((f"{curve}, fine-tuned", *size), swapped)
        for column, title in (("cosine", "cosine"), ("rank_correlation", "rank correlation")):
            row |= {title: f"{float(swapped[column]):.3f}", f"{title}, tuned": f"{float(tuned[column]):.3f}"}
        row["same neighbour, %"] = percent(swapped["same_neighbour"], 1)
        rows.append(row | {"same neighbour, tuned, %": percent(tuned["same_neighbour"], 1)})
    return markdown(rows)
