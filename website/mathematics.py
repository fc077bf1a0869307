"""Formulas as MathML, which browsers draw themselves: no script, no font and no network.

An extension of Python-Markdown: pymdownx.arithmatex finds ``$...$`` and ``$$...$$``, and this makes MathML of them.
"""

import html
import re
from typing import Any

from markdown import Extension, Markdown
from markdown.postprocessors import Postprocessor
from math_core import LatexError, LatexToMathML

_FOUND = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', flags=re.DOTALL)
_CONVERTER = LatexToMathML(fancy_error=False)


def mathml(latex: str, *, display: bool) -> str:
    """A formula in LaTeX as a ``math`` element.

    Raises:
        ValueError: the formula has a mistake, or a command that the converter does not know.
    """
    try:
        return _CONVERTER.convert_with_local_state(latex, displaystyle=display)
    except LatexError as error:
        raise ValueError(f"{error} in the formula {latex.strip()}") from None


class _ToMathML(Postprocessor):
    def run(self, text: str) -> str:
        return _FOUND.sub(self._formula, text)

    def _formula(self, match: re.Match[str]) -> str:
        element, bracket, latex = match.groups()
        formula = mathml(html.unescape(latex), display=bracket == "[")
        return f'<{element} class="formula">{formula}</{element}>'


class Mathematics(Extension):
    """For ``markdown_extensions`` in mkdocs.yml, after pymdownx.arithmatex with ``generic: true``."""

    def extendMarkdown(self, md: Markdown) -> None:
        """Convert last, when arithmatex's elements are back in the text."""
        md.postprocessors.register(_ToMathML(md), "mathml", -10)


def makeExtension(**options: Any) -> Mathematics:
    """What Markdown calls."""
    return Mathematics(**options)
