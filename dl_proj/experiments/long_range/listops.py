"""ListOps (Nangia and Bowman 2018): nested lists with operators to evaluate, as in the benchmark."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count, takewhile
from random import Random
from statistics import median

from dl_proj.experiments.long_range.parallel import bar, in_order

OPERATORS: dict[str, Callable[[list[int]], int]] = {
    "[MIN": min,
    "[MAX": max,
    "[MED": lambda values: int(median(values)),
    "[SM": lambda values: sum(values) % 10,
}
"""Operators by symbol; the median of an even number of arguments is the mean of the middle two, rounded down."""

SYMBOLS = (*"0123456789", *OPERATORS, "]")
"""Tokens are indices into this list, so a digit is its own token."""

_CLOSE = len(SYMBOLS) - 1
_APPLY = {SYMBOLS.index(name): operator for name, operator in OPERATORS.items()}
_FIRST_OPERATOR = min(_APPLY)
_OPERATOR_SHARE = 0.25  # probability that an argument above the deepest level is an operation; others are digits
_MOST_TRIES = 20_000  # per expression
_DRAWN_TOGETHER = 250


@dataclass(frozen=True)
class Grammar:
    """The distribution of expressions.

    Args:
        min_length, max_length: tokens; an operator with its bracket is one, a closing bracket another.
        max_depth: maximum nesting, including the level of the digits.
        max_arguments: maximum arguments of an operator, which has at least two.
    """

    min_length: int
    max_length: int
    max_depth: int
    max_arguments: int


def different_expressions(grammar: Grammar, number: int, seed: int) -> Iterator[tuple[bytes, int]]:
    """Yield different expressions, as tokens, with their values; they are generated on all processor cores.

    Expressions are drawn top-down: down to ``max_depth``, each argument is an operation with probability 0.25, and each
    operator has 2 to ``max_arguments`` arguments. Expressions of the wrong length are rejected. The result depends only
    on the grammar and the seed.

    Args:
        grammar: the distribution of expressions.
        number: number of expressions; fewer if there are not enough, or if they are too rare.
        seed: determines the expressions.
    """
    if _expression(grammar, Random(seed)) is None:
        return
    seen: set[bytes] = set()
    pieces = count()
    with bar(f"ListOps of {grammar.min_length} to {grammar.max_length} tokens", number) as progress:
        while missing := number - len(seen):
            before = len(seen)
            some = [next(pieces) for _ in range(-(-missing // _DRAWN_TOGETHER))]
            for drawn in in_order(partial(_draw, grammar, seed), some):
                for tokens, value in drawn:
                    if tokens not in seen and len(seen) < number:
                        seen.add(tokens)
                        progress.update()
                        yield tokens, value
            if len(seen) == before:
                return


def _draw(grammar: Grammar, seed: int, piece: int) -> list[tuple[bytes, int]]:
    """Draw some expressions, possibly with duplicates; they depend only on the piece's number, not on the process."""
    random = Random(f"{seed} {piece}")
    drawn = (_expression(grammar, random) for _ in range(_DRAWN_TOGETHER))
    return [one for one in takewhile(lambda one: one is not None, drawn) if one is not None]


def _expression(grammar: Grammar, random: Random) -> tuple[bytes, int] | None:
    """Draw an expression of a valid length; None if all tries failed."""
    for _ in range(_MOST_TRIES):
        tokens = bytearray()
        value = _operation(tokens, 1, grammar, random)
        if grammar.min_length <= len(tokens) <= grammar.max_length:
            return bytes(tokens), value
    return None


def _operation(tokens: bytearray, level: int, grammar: Grammar, random: Random) -> int:
    """Append an operation to ``tokens``; returns its value, or -1 as soon as it is too long."""
    operator = _FIRST_OPERATOR + int(random.random() * len(_APPLY))
    tokens.append(operator)
    deeper = level + 1 < grammar.max_depth
    values = []
    for _ in range(2 + int(random.random() * (grammar.max_arguments - 1))):
        if deeper and random.random() < _OPERATOR_SHARE:
            values.append(_operation(tokens, level + 1, grammar, random))
        else:
            digit = int(random.random() * 10)
            tokens.append(digit)
            values.append(digit)
        if len(tokens) > grammar.max_length:
            return -1  # the expression will be rejected
    tokens.append(_CLOSE)
    return _APPLY[operator](values)


def to_text(tokens: bytes) -> str:
    """Return tokens as text, such as ``[MAX 2 9 [MIN 4 7 ] 0 ]``."""
    return " ".join(SYMBOLS[token] for token in tokens)


def to_tokens(text: str) -> bytes:
    """Return text as tokens, without the benchmark's round brackets, which carry no information.

    Raises:
        ValueError: an unknown symbol.
    """
    words = text.replace("(", " ").replace(")", " ").split()
    for word in words:
        if word not in SYMBOLS:
            raise ValueError(f"{word!r} is not a symbol of ListOps, must be one of {' '.join(SYMBOLS)}")
    return bytes(map(SYMBOLS.index, words))
