"""ListOps (Nangia and Bowman 2018): nested lists of digits whose operators must be carried out, as in the benchmark."""

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
"""By their symbols; of an even number of arguments the median is the mean of the middle two, rounded down."""

SYMBOLS = (*"0123456789", *OPERATORS, "]")
"""Tokens are places in this list, so a digit is its own token."""

_CLOSE = len(SYMBOLS) - 1
_APPLY = {SYMBOLS.index(name): operator for name, operator in OPERATORS.items()}
_FIRST_OPERATOR = min(_APPLY)
_OPERATOR_SHARE = 0.25  # of the arguments above the deepest level; the others are digits
_MOST_TRIES = 20_000  # for one expression
_DRAWN_TOGETHER = 250


@dataclass(frozen=True)
class Grammar:
    """Which expressions are drawn.

    Args:
        min_length, max_length: tokens; an operator with its bracket and a closing bracket are one each.
        max_depth: levels, that of the digits included.
        max_arguments: of an operator, which has two at least.
    """

    min_length: int
    max_length: int
    max_depth: int
    max_arguments: int


def different_expressions(grammar: Grammar, number: int, seed: int) -> Iterator[tuple[bytes, int]]:
    """Expressions that are all different, as tokens, and their values, drawn by all processor cores.

    An expression is drawn from the top: each argument is an operation with probability 0.25, until ``max_depth``, and
    each operator has 2 to ``max_arguments`` arguments. What has another length is drawn anew. Their order depends on
    the grammar and the seed alone.

    Args:
        grammar: which.
        number: of expressions; fewer if there are not as many, or if they are too rare.
        seed: another one gives others.
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
    """Some expressions, of which several may be the same: a function of the piece's number, in any process."""
    random = Random(f"{seed} {piece}")
    drawn = (_expression(grammar, random) for _ in range(_DRAWN_TOGETHER))
    return [one for one in takewhile(lambda one: one is not None, drawn) if one is not None]


def _expression(grammar: Grammar, random: Random) -> tuple[bytes, int] | None:
    """One, or None if none was drawn, however often it was tried."""
    for _ in range(_MOST_TRIES):
        tokens = bytearray()
        value = _operation(tokens, 1, grammar, random)
        if grammar.min_length <= len(tokens) <= grammar.max_length:
            return bytes(tokens), value
    return None


def _operation(tokens: bytearray, level: int, grammar: Grammar, random: Random) -> int:
    """Write an operator, its arguments and the closing bracket; returns the value, or -1 if there are too many."""
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
            return -1  # it is thrown away
    tokens.append(_CLOSE)
    return _APPLY[operator](values)


def to_text(tokens: bytes) -> str:
    """Tokens as they are written, such as ``[MAX 2 9 [MIN 4 7 ] 0 ]``."""
    return " ".join(SYMBOLS[token] for token in tokens)


def to_tokens(text: str) -> bytes:
    """The way back; the benchmark's round brackets, which carry no information, are left out.

    Raises:
        ValueError: another symbol.
    """
    words = text.replace("(", " ").replace(")", " ").split()
    for word in words:
        if word not in SYMBOLS:
            raise ValueError(f"{word!r} is no symbol of ListOps; these are {' '.join(SYMBOLS)}")
    return bytes(map(SYMBOLS.index, words))
