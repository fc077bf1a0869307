"""ListOps: values by another evaluator, bounds, balance, the same examples however many processes draw them."""

import itertools
from collections import Counter

import pytest

from dl_proj.experiments.long_range import listops, parallel
from dl_proj.experiments.long_range.listops import SYMBOLS, Grammar, different_expressions, to_text, to_tokens

PAPER = Grammar(min_length=500, max_length=2000, max_depth=10, max_arguments=10)
SHORT = Grammar(min_length=8, max_length=40, max_depth=4, max_arguments=5)


@pytest.fixture(scope="module")
def long():
    return list(different_expressions(PAPER, 600, seed=0))


@pytest.fixture(scope="module")
def short():
    return list(different_expressions(SHORT, 750, seed=0))


def parse(text):
    """The tree of an expression, and nothing may be left over."""
    words = text.split()

    def tree(at):
        if not words[at].startswith("["):
            return int(words[at]), at + 1
        name, arguments, at = words[at][1:], [], at + 1
        while words[at] != "]":
            argument, at = tree(at)
            arguments.append(argument)
        return (name, arguments), at + 1

    found, end = tree(0)
    assert end == len(words)
    return found


def value(tree):
    if isinstance(tree, int):
        return tree
    name, arguments = tree[0], sorted(map(value, tree[1]))
    n = len(arguments)
    return {
        "MIN": arguments[0],
        "MAX": arguments[-1],
        "MED": (arguments[(n - 1) // 2] + arguments[n // 2]) // 2,
        "SM": sum(arguments) % 10,
    }[name]


def depth(tree):
    return 1 if isinstance(tree, int) else 1 + max(map(depth, tree[1]))


def operations(tree):
    if not isinstance(tree, int):
        yield tree
        for argument in tree[1]:
            yield from operations(argument)


def test_a_value_is_known_without_the_generator():
    assert value(parse("[MAX 2 9 [MIN 4 7 ] 0 ]")) == 9
    assert value(parse("[MED 1 8 4 [SM 9 9 ] ]")) == 6
    assert value(parse("[MED 1 2 ]")) == 1


def test_labels_are_what_another_evaluator_finds(long, short):
    for tokens, label in [*long, *short]:
        assert value(parse(to_text(tokens))) == label


@pytest.mark.parametrize(("grammar", "name"), [(PAPER, "long"), (SHORT, "short")])
def test_expressions_keep_to_their_grammar_and_use_all_of_it(grammar, name, request):
    examples = request.getfixturevalue(name)
    assert len({tokens for tokens, _ in examples}) == len(examples)
    lengths = [len(tokens) for tokens, _ in examples]
    assert grammar.min_length <= min(lengths) < grammar.min_length + 10
    assert grammar.max_length - 10 < max(lengths) <= grammar.max_length
    trees = [parse(to_text(tokens)) for tokens, _ in examples]
    assert max(map(depth, trees)) == grammar.max_depth
    numbers = Counter(len(arguments) for tree in trees for _, arguments in operations(tree))
    assert {*numbers} == {*range(2, grammar.max_arguments + 1)}
    assert {name for tree in trees for name, _ in operations(tree)} == {"MIN", "MAX", "MED", "SM"}


def test_an_argument_is_an_operation_once_in_four(long):
    """Above the deepest level, in expressions of any length: what those of 500 tokens and more are drawn from."""
    random = listops.Random("shares")
    drawn = [listops._expression(Grammar(4, 10_000, 3, 10), random) for _ in range(2000)]
    arguments = [argument for tokens, _ in drawn for argument in parse(to_text(tokens))[1]]
    share = sum(not isinstance(argument, int) for argument in arguments) / len(arguments)
    assert share == pytest.approx(0.25, abs=0.015)  # 4 standard deviations of some 12,000


def test_every_class_has_its_share(long):
    """MIN and MAX at the top make 0 and 9 frequent; nothing else is: knowing the operators alone is little help."""
    shares = {label: number / len(long) for label, number in Counter(label for _, label in long).items()}
    assert {*shares} == {*range(10)}
    assert min(shares.values()) > 0.05
    assert max(shares.values()) < 0.22


def test_examples_depend_on_the_seed_alone(monkeypatch):
    one = list(different_expressions(SHORT, 1100, seed=3))
    monkeypatch.setattr(parallel.os, "sched_getaffinity", lambda process: {0})  # in this process
    assert list(different_expressions(SHORT, 1100, seed=3)) == one
    assert list(different_expressions(SHORT, 300, seed=3)) == one[:300]
    assert not {tokens for tokens, _ in different_expressions(SHORT, 300, seed=4)} & {tokens for tokens, _ in one[:99]}


@pytest.mark.parametrize("grammar", [Grammar(4, 4, 2, 2), Grammar(500, 500, 3, 4)], ids=["few", "none"])
def test_it_ends_where_there_are_no_more(grammar, monkeypatch):
    monkeypatch.setattr(listops, "_MOST_TRIES", 100)
    found = list(different_expressions(grammar, 1000, seed=0))
    assert len(found) == (400 if grammar.max_arguments == 2 else 0)  # four operators of two digits


def test_text_is_read_back_with_and_without_the_benchmarks_brackets(short):
    for tokens, _ in itertools.islice(short, 100):
        assert to_tokens(to_text(tokens)) == tokens
    assert to_tokens("( ( ( [MAX 2 ) 9 ) ] )") == to_tokens("[MAX 2 9 ]") == bytes([11, 2, 9, len(SYMBOLS) - 1])
    with pytest.raises(ValueError, match="'10' is not a symbol"):
        to_tokens("[MAX 10 2 ]")
