"""What the site's generator is given beside pages: formulas as MathML, docstrings as Markdown."""

import pytest

markdown = pytest.importorskip("markdown", reason="the site's generator is not installed: make setup-dev")
pytest.importorskip("math_core", reason="the site's generator is not installed: make setup-dev")
pytest.importorskip("griffe", reason="the site's generator is not installed: make setup-dev")


def rendered(text: str) -> str:
    options = {"pymdownx.arithmatex": {"generic": True}}
    extensions = ["tables", "pymdownx.superfences", "pymdownx.arithmatex", "website.mathematics"]
    return markdown.markdown(text, extensions=extensions, extension_configs=options)


def test_formulas_become_mathml_and_code_does_not() -> None:
    page = rendered(
        "In $O(n^2)$ and\n\n$$\n\\frac{a}{b} < 1\n$$\n\n`$x$`, 5 $ and 6 $\n\n```\n$y$\n```\n\n|a|\n|-|\n|$z$|"
    )
    assert page.count("<math") == 3 and page.count("</math>") == 3
    assert "<msup><mi>n</mi><mn>2</mn></msup>" in page and "<mfrac><mi>a</mi><mi>b</mi></mfrac><mo>&lt;</mo>" in page
    assert 'display="block"' in page and "$x$" in page and "$y$" in page and "arithmatex" not in page


def test_a_wrong_formula_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\\fraction"):
        rendered(r"$\fraction{a}{b}$")


def test_docstrings_become_markdown() -> None:
    from website.docstrings import as_markdown

    text = (
        "See :class:`~my_transformers.Mechanism` and :func:`mean`.\nDefinition: my_transformers/reference.py, a, b.\n"
    )
    new = as_markdown(text, "package.module.function")
    assert '<autoref identifier="my_transformers.Mechanism" optional><code>Mechanism</code></autoref>' in new
    assert '<autoref identifier="package.module.mean" optional><code>mean</code></autoref>' in new
    assert 'identifier="my_transformers.reference.a"' in new and 'identifier="my_transformers.reference.b"' in new
    assert as_markdown("==== ===\nname what\n==== ===\nlong a b\n     c\n==== ===", "x") == (
        "| name | what |\n|---|---|\n| long | a b |\n|  | c |"
    )
