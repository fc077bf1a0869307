"""Mechanisms look the same in every figure, and different from each other; axes have words and plain numbers."""

import matplotlib
import pytest

from dl_proj.figure_style import family_of, looks_of, metric_label, plain_number, style
from my_transformers.registry import SETTINGS

OF_OTHERS = ("transformers_lsh",)  # looks as lsh does


def test_every_mechanism_has_a_family_and_a_look_of_its_own():
    kinds = [settings.kind for settings in SETTINGS if settings.kind not in OF_OTHERS]
    assert len(kinds) > 10
    assert [family_of(kind) for kind in kinds] == kinds
    looks = looks_of(kinds)
    assert len({look.colour for look in looks.values()}) == len(kinds)
    assert len({look.marker for look in looks.values()}) == len(kinds)


@pytest.mark.parametrize(
    ("family", "labels"),
    [
        ("full", ("full", "flash", "local, full", "mnist-cls-full")),
        ("lsh", ("LSH-4", "lsh-4", "local, LSH-4", "mnist-cls-lsh-4")),
        ("linformer", ("Linformer, k = 64", "k64")),
        ("performer", ("Performer", "performer", "local, Performer")),
        ("causal_linformer", ("block-causal Linformer", "causal_linformer")),
        ("clipped_relative", ("clipped relative", "mnist14-clipped-relative")),
    ],
)
def test_a_mechanism_looks_the_same_whatever_figure_it_is_in(family, labels):
    assert {family_of(label) for label in labels} == {family}
    assert len({looks_of([label, "Nystrom", "something else"])[label] for label in labels}) == 1


def test_rounds_get_darker_and_reversible_layers_dashes():
    looks = looks_of([f"LSH-{r}" for r in (1, 2, 4, 8)] + ["LSH-2, reversible", "LSH-2, recomputed"])
    brightness = [sum(matplotlib.colors.to_rgb(looks[f"LSH-{r}"].colour)) for r in (1, 2, 4, 8)]
    assert brightness == sorted(brightness, reverse=True)
    plain, reversible = looks["LSH-2"], looks["LSH-2, reversible"]
    assert (plain.colour, plain.marker, plain.dashes) == (reversible.colour, reversible.marker, "-")
    assert (reversible.dashes, reversible.hollow) == ("--", True)
    assert looks["LSH-2, recomputed"].dashes == ":"


@pytest.mark.parametrize("all_of", [None, "performer"])
def test_no_two_curves_of_a_figure_look_the_same(all_of):
    labels = ["relative", "relative, plain", "k64", "k64-none", "k64-matrix", "full", "a", "b", "c", "d", "e", "f"]
    looks = looks_of(labels, all_of=all_of)
    assert list(looks) == labels
    assert len(set(looks.values())) == len(labels)


def test_nobodys_curve_has_the_colour_of_a_mechanism_beside_it():
    looks = looks_of(["LSH-4", "something", "else"])
    assert looks["LSH-4"].colour not in {looks["something"].colour, looks["else"].colour}


def test_the_style_is_left_where_it_began():
    before = dict(matplotlib.rcParams)
    with style():
        assert matplotlib.rcParams["pdf.fonttype"] == 42
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("val/bits_per_byte", "validation bits per byte"),
        ("test/accuracy", "test accuracy"),
        ("loss", "loss (nats)"),
        ("val/accuracy/3", "validation accuracy/3"),
        ("test/bleu", "test BLEU"),
    ],
)
def test_metrics_are_words(metric, words):
    assert metric_label(metric) == words


NUMBERS = {16384: "16,384", 0.0005: "0.0005", 10.0: "10", 2.5: "2.5", 100.0: "100", 1e-6: "0.000001"}


@pytest.mark.parametrize("value", NUMBERS)
def test_numbers_are_plain(value):
    assert plain_number(value) == NUMBERS[value]
