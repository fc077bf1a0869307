"""The pages on the mechanisms and the papers agree with the registry, the settings and the committed results."""

import csv
import json
import re
from dataclasses import fields
from itertools import product
from pathlib import Path

import pytest

from my_transformers import reference
from my_transformers.registry import SETTINGS
from my_transformers.settings import MechanismSettings

DOCS = Path(__file__).parents[1] / "docs"
INDEX = (DOCS / "mechanisms/index.md").read_text(encoding="utf-8")


def rows(title: str) -> dict[str, list[str]]:
    """Cells of the table in the index whose header begins so, by kind."""
    header, table = re.search(rf"^(\| `kind` \| {title} .*)\n\|[-|]*\n((?:\|.*\n)+)", INDEX, re.MULTILINE).groups()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert {len(row) for row in cells} == {header.count("|") - 1}
    return {re.search(r"`(\w+)`", row[0])[1]: row for row in cells}


def page_of(settings: type[MechanismSettings]) -> Path:
    return DOCS / "mechanisms" / re.search(r"\(([\w.]+)", rows("idea")[settings.kind][0])[1]


@pytest.mark.parametrize("title", ["idea", "time"])
def test_the_tables_list_every_mechanism(title: str) -> None:
    assert [*rows(title)] == [settings.kind for settings in SETTINGS]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: settings.kind)
def test_a_row_says_what_is_declared(settings: type[MechanismSettings]) -> None:
    definition, code = rows("idea")[settings.kind][3:5]
    causal, cross = rows("time")[settings.kind][5:]
    assert code.endswith(f"({'../../' + settings.module.rsplit('.', 1)[0].replace('.', '/')}.py)")
    assert definition == "none: that library" or callable(getattr(reference, definition.strip("`")))
    assert (causal == "refused") == (True not in settings.directions)
    assert (causal == "leaks") == (settings().leak is not None)
    assert cross == ("yes" if settings.cross else "no")


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: settings.kind)
def test_a_page_names_every_setting(settings: type[MechanismSettings]) -> None:
    page = page_of(settings).read_text(encoding="utf-8")
    performer = (DOCS / "mechanisms/performer.md").read_text(encoding="utf-8")
    text = page + performer if "performer.md#parameters" in page else page
    assert [one.name for one in fields(settings) if f"`{one.name}`" not in text] == []


def test_every_figure_is_shown_and_every_shown_one_exists() -> None:
    shown = {
        (page.parent / name).resolve()
        for page in [*DOCS.glob("*.md"), *DOCS.glob("mechanisms/*.md")]
        for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    }
    assert {path for path in shown if not path.exists()} == set()
    assert {path.resolve() for path in DOCS.glob("mechanisms/figures/*.png")} <= shown


COPY, BOOKS, MASKED = "synth_comparison_1024/table.csv", "sweep_lm_books/sweep.csv", "sweep_mlm_books/sweep.csv"
FEATURES, SHIFTS, RECALL = (
    "performance_studies/approximation.csv",
    "shift_test/shifts.csv",
    "recall_comparison/table.csv",
)
DEPTH, SPEED, TESTED = "performance_studies/depth.csv", "performance_studies/linformer.csv", "evaluation/evaluation.csv"
ROUNDS = ("full", "LSH-8", "LSH-4", "LSH-2", "LSH-1")
FIGURES = {  # files: the column, its format and a factor, the columns that choose rows, and these
    COPY: [("accuracy", "{:.2f}", 1, ("trained", "evaluated"), [*product(("full", "LSH-4", "LSH-2"), ROUNDS)])],
    BOOKS: [
        (
            "test/bits_per_byte",
            "{:.3f}",
            1,
            ("variant",),
            [("full",), ("shared_qk",), ("lsh-2",), ("lsh-4",), ("lsh-8",)],
        ),
        ("test/bits_per_byte", "{:.3f}", 1, ("variant",), [("reversible-lsh-2",), ("performer",)]),
    ],
    MASKED: [
        ("test/perplexity", "{:.2f}", 1, ("variant",), [("full",), ("k32",), ("k64",), ("k128",), ("k256",)]),
        ("test/perplexity", "{:.2f}", 1, ("variant",), [("k64-none",), ("k64-key_value",), ("k64-layerwise",)]),
    ],
    FEATURES: [
        ("mse", "{:.1e}", 1, ("curve", "n_features"), [(kind, "256")])
        for kind in ("softmax, iid", "softmax, orthogonal", "hyperbolic, orthogonal")
    ],
    SHIFTS: [
        ("accuracy", "{:.1f}", 100, ("checkpoint", "shift"), [(f"mnist14-{kind}", "-8")])
        for kind in ("performer", "relative", "clipped-relative")
    ],
    TESTED: [
        *(
            ("accuracy", "{:.2f}", 100, ("checkpoint",), [(f"mnist14-{kind}",)])
            for kind in ("performer", "relative", "clipped-relative", "nopos")
        ),
        *(
            ("bits_per_dim", "{:.3f}", 1, ("checkpoint",), [(f"mnist-gen-{kind}-144",)])
            for kind in ("full", "lsh-r1", "lsh-r2", "lsh-r4")
        ),
    ],
    DEPTH: [
        ("allocated_mib", "{:.1f}", 1, ("curve", "depth"), [*product(("full", "full, reversible"), "18")]),
    ],
    SPEED: [
        ("speed_up", "{:.2f}", 1, ("length", "rank"), [("1024", "128"), ("2048", "128")]),
        ("speed_up", "{:.2f}", 1, ("length", "rank"), [*product(("4096",), ("128", "256", "512", "1024"))]),
    ],
    RECALL: [
        ("accuracy", "{:.3f}", 1, ("attention",), [(f"local, {kind}",)])
        for kind in ("full", "LSH-2", "Performer, n_features 64", "Performer, n_features 256")
    ],
}


@pytest.mark.parametrize("path", FIGURES)
def test_figures_beside_the_papers_claims_are_those_of_the_data(path: str) -> None:
    """Each stands on a row of a table that links to its file."""
    page = (DOCS / "papers.md").read_text(encoding="utf-8")
    said = "\n".join(line for line in page.splitlines() if f"(results/{path})" in line)
    with (DOCS / "results" / path).open(newline="", encoding="utf-8") as file:
        data = list(csv.DictReader(file))
    for column, form, factor, keys, chosen in FIGURES[path]:
        for cells in chosen:
            (row,) = (row for row in data if tuple(row[key] for key in keys) == cells)
            figure = form.format(factor * float(row[column])).replace("e-07", " · 10⁻⁷")
            assert re.search(rf"(?<![\d.]){re.escape(figure)}(?!\d)", said), (cells, figure)


@pytest.mark.parametrize(
    "name", ["translation-multi30k", "translation-multi30k-linformer", "translation-multi30k-reversible"]
)
def test_bleu_beside_the_papers_claims_is_that_of_the_data(name: str) -> None:
    page = (DOCS / "papers.md").read_text(encoding="utf-8")
    scores = json.loads((DOCS / "results" / name / "scores.json").read_text(encoding="utf-8"))
    near = re.findall(rf"([\d.]+) \[[^]]*\]\(results/{name}/|\[([\d.]+)\]\(results/{name}/", page)
    assert near
    assert {"".join(pair) for pair in near} == {f"{scores['BLEU']:.2f}"}
