"""Pairs as tokens: what an item and a batch are, what is left out and said, what is kept in files."""

import os
import pickle
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dl_proj.experiments.translation import data as ours
from dl_proj.experiments.translation.data import load_pairs, say_counts
from dl_proj.experiments.translation.data_settings import PairsConfig
from dl_proj.experiments.translation.pair_sets import raw_pairs
from dl_proj.experiments.translation.sentences import PairTokenizers, learn_sentences
from dl_proj.settings.errors import ConfigError
from my_custom_ai.custom_train.data import TrainingBatches, evaluation_batches

PARTS = ("train", "val", "test")
ENGLISH = ["the", "dog", "sees", "a", "small", "bird", "and", "süße", "cats", "😀", "\u2028.", "sleep\x0b", "here"]
GERMAN = ["der", "Hund", "sieht", "einen", "kleinen", "Vogel", "und", "Katzen", "schlafen", "\x85.", "\rgern"]


def sentences(words, n, seed):
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(words, generator.integers(1, 12))) for _ in range(n)]


def write(folder="text", **changed):
    """Forty pairs to train on, nine in the other parts; ``train_en=[...]`` gives lines."""
    Path(folder).mkdir(exist_ok=True)
    for seed, part in enumerate(PARTS):
        for language, words in (("en", ENGLISH), ("de", GERMAN)):
            lines = changed.get(f"{part}_{language}") or sentences(words, 9 if seed else 40, seed)
            Path(folder, f"{part}.{language}").write_bytes("".join(f"{line}\n" for line in lines).encode())


def config(**changes):
    corpus = {"kind": "files", "folder": "text"} | changes.pop("corpus", {})
    tokenizer = {"vocab_size": 280} | changes.pop("tokenizer", {})
    return PairsConfig(**{"corpus": corpus, "tokenizer": tokenizer, "root": Path("root"), "max_length": 200} | changes)


def refusal(configured):
    with pytest.raises(ConfigError) as refused:
        load_pairs(configured, seed=0)
    return list(refused.value.lines)


def decoded(data, part):
    """Source and target of each item, in the items' order."""
    sides = (data.tokenizers.source, data.tokenizers.target)
    split = getattr(data, part)
    return [tuple(side.decode(t.tolist()) for side, t in zip(sides, split[i], strict=True)) for i in range(len(split))]


def lengths_of(data, pair):
    """Tokens of both sides with the symbol that ends them."""
    sides = (data.tokenizers.source, data.tokenizers.target)
    return [len(side.encode([sentence])[0]) + 1 for side, sentence in zip(sides, pair, strict=True)]


# -- items and batches --


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize(("source", "target"), [("en", "de"), ("de", "en")])
def test_items_are_the_sentences_with_their_boundaries(joint, source, target):
    write()
    configured = config(tokenizer={"joint": joint}, source_language=source, target_language=target)
    data = load_pairs(configured, seed=0)
    assert data.tokenizers.joint is joint
    assert decoded(data, "train") == list(raw_pairs(configured, "train", seed=0)), "in the file's order"
    of_source, of_target = data.tokenizers.source.boundary, data.tokenizers.target.boundary
    for part in PARTS:
        split = getattr(data, part)
        assert sorted(decoded(data, part)) == sorted(raw_pairs(configured, part, seed=0))
        assert len(split) == len(split.sizes) == (40 if part == "train" else 9)
        for i in range(len(split)):
            one, other = split[i]
            assert one.dtype == other.dtype == torch.int64
            assert one[-1] == of_source and (one[:-1] < of_source).all()
            assert other[0] == other[-1] == of_target and (other[1:-1] < of_target).all()
            assert split.sizes[i] == max(len(one), len(other) - 1)


def test_evaluation_comes_by_length_and_raw_pairs_as_they_are():
    write()
    data = load_pairs(config(), seed=0)
    for part in ("val", "test"):
        sizes = [max(lengths_of(data, pair)) for pair in raw_pairs(config(), part, seed=0)]
        assert sizes != sorted(sizes)
        assert getattr(data, part).sizes.tolist() == sorted(sizes)


def test_a_batch_is_padded_with_masked_boundaries():
    write()
    data = load_pairs(config(tokenizer={"joint": False}), seed=0)
    items = [data.train[i] for i in (3, 0, 7)]
    source, source_mask, target, target_mask = data.train.collate(items)
    for side, tokens, mask, boundary in (
        (0, source, source_mask, data.tokenizers.source.boundary),
        (1, target, target_mask, data.tokenizers.target.boundary),
    ):
        lengths = [len(item[side]) for item in items]
        assert tokens.dtype == torch.int64 and mask.dtype == torch.bool
        assert tokens.shape == mask.shape == (3, max(lengths))
        for row, real, item, length in zip(tokens, mask, items, lengths, strict=True):
            assert row[:length].tolist() == item[side].tolist() and (row[length:] == boundary).all()
            assert real.tolist() == [True] * length + [False] * (max(lengths) - length)


with_a_worker = [0, pytest.param(1, marks=pytest.mark.filterwarnings("ignore:This process .* is multi-threaded"))]


@pytest.mark.parametrize("num_workers", with_a_worker)
def test_loaders_give_every_pair_in_batches_of_bounded_size(num_workers):
    write()
    data = load_pairs(config(), seed=0)
    batches = TrainingBatches(data.train, batch_tokens=250, seed=3, num_workers=num_workers)
    seen = []
    for source, source_mask, target, target_mask in islice(batches.starting_at(0), len(batches)):
        assert len(source) * max(source.shape[1], target.shape[1] - 1) <= 250
        rows = zip(source, source_mask, target, target_mask, strict=True)
        seen += [(tuple(s[m].tolist()), tuple(t[n].tolist())) for s, m, t, n in rows]
    assert sorted(seen) == sorted(tuple(tuple(side.tolist()) for side in data.train[i]) for i in range(40))
    rows = [len(batch[0]) for batch in evaluation_batches(data.val, batch_size=4, num_workers=num_workers)]
    assert rows == [4, 4, 1]


def test_pairs_are_not_held_in_memory():
    long = ["the dog sees a small bird " * 20] * 40
    write(train_en=long, train_de=long)
    data = load_pairs(config(max_length=10_000), seed=0)
    assert data.train.sizes.min() > 100
    packed = pickle.dumps(data.train)
    assert len(packed) < 4000, "a worker gets the file's name"
    assert pickle.loads(packed)[5][0].tolist() == data.train[5][0].tolist()


# -- what is left out --


def test_what_is_left_out_is_counted_and_said(capsys):
    english = ["a", "", "a", " \t\u2003", "a " * 30, "a", "a dog"]
    german = ["b", "b " * 30, "\x0b", "", "b", "b " * 30, ""]
    others = {f"{part}_{language}": ["a"] * 9 for part in ("val", "test") for language in ("en", "de")}
    write(train_en=english, train_de=german, **others)
    configured = config(max_length=25, tokenizer={"vocab_size": 256})
    data = load_pairs(configured, seed=0)
    counts = data.counts["train"]
    assert (counts.pairs, counts.empty, counts.too_long, counts.kept) == (7, 4, 2, 1)
    assert decoded(data, "train") == [("a", "b")]
    assert data.counts["val"].pairs == 9
    assert [tuple(pair) for pair in raw_pairs(configured, "train", seed=0)] == list(zip(english, german, strict=True))
    capsys.readouterr()
    say_counts(data, configured)
    out, err = capsys.readouterr()
    first, *others = err.splitlines()
    assert (out, len(others)) == ("", 2)
    assert first == (
        "training pairs: 1; skipped of 7: 4 with an empty side, 2 with more than 25 tokens (data.max_length)"
    )


@pytest.mark.parametrize("side", ["train_en", "train_de"])
def test_max_length_counts_the_end_symbol_on_both_sides(side):
    same = {f"{part}_{language}": ["x"] * 4 for part in PARTS for language in ("en", "de")}
    write(**same | {side: ["abc", "abcd", "abcde", "x"]})
    data = load_pairs(config(max_length=6, tokenizer={"vocab_size": 256}), seed=0)
    assert data.train.sizes.tolist() == [5, 6, 3], "bytes, the space before and the symbol at the end"
    assert data.counts["train"].too_long == 1


def test_the_limit_is_no_part_of_the_token_file(monkeypatch):
    write()
    whole = load_pairs(config(), seed=0)
    monkeypatch.setattr(ours, "_encode", None)
    shorter = load_pairs(config(max_length=30), seed=0)
    assert 0 < len(shorter.train) < 40
    assert shorter.train.sizes.tolist() == [size for size in whole.train.sizes if size <= 30]


def test_if_nothing_is_left_it_is_refused():
    write(val_en=["", "the dog"], val_de=["b", "b " * 300], test_en=[" "], test_de=["b"])
    assert refusal(config()) == [
        "data: no usable validation pairs; skipped of 2: 1 with an empty side, 1 with more than 200 tokens "
        "(data.max_length)",
        "data: no usable test pairs; skipped of 1: 1 with an empty side, 0 with more than 200 tokens (data.max_length)",
    ]
    for part in PARTS:
        for language in ("en", "de"):
            Path("text", f"{part}.{language}").write_bytes(b"")
    assert [line.split(";")[0] for line in refusal(config())] == [
        f"data: no usable {part} pairs" for part in ("training", "validation", "test")
    ]


def test_a_share_too_small_for_a_pair_is_refused():
    write()
    assert refusal(config(corpus={"val": None, "test": None})) == [
        "data.corpus: val_share 0.01 and test_share 0.01 of 40 training pairs leave no pairs for val"
    ]


def test_missing_values_of_a_table_are_empty():
    table = {"en": ["a", None, "the dog", "x"] * 4, "de": ["b", "c", None, "null"] * 4}
    for part in PARTS:
        pq.write_table(pa.table(table), f"{part}.parquet")
    corpus = {"kind": "parquet"} | {part: f"{part}.parquet" for part in PARTS}
    configured = PairsConfig(corpus=corpus, root=Path("root"), tokenizer={"vocab_size": 256})
    data = load_pairs(configured, seed=0)
    assert data.counts["train"].empty == 8
    assert decoded(data, "train") == [("a", "b"), ("x", "null")] * 4


# -- subwords --


def test_subwords_are_learnt_from_the_training_pairs_alone():
    write(val_en=["zzzz"] * 9, val_de=["yyyy"] * 9, train_en=["uvw uvw"] * 30, train_de=["klm klm"] * 30)
    joint = load_pairs(config(), seed=0).tokenizers
    assert {b" uvw", b" klm"} <= set(joint.source.subwords.pieces)
    assert not {b"zz", b"yy"} & set(joint.source.subwords.pieces)
    apart = load_pairs(config(tokenizer={"joint": False}), seed=0).tokenizers
    for side, own, other in ((apart.source, b" uvw", b" klm"), (apart.target, b" klm", b" uvw")):
        assert own in side.subwords.pieces and other not in side.subwords.pieces


def test_held_out_pairs_are_not_learnt_from():
    write(train_en=[f"word{chr(97 + i)}{chr(97 + i)}" for i in range(26)], train_de=["x"] * 26)
    configured = config(corpus={"val": None, "val_share": 0.5}, tokenizer={"vocab_size": 400})
    data = load_pairs(configured, seed=0)
    pieces = set(data.tokenizers.source.subwords.pieces)
    whole_words = {part: [f" {s}".encode() in pieces for s, _ in raw_pairs(configured, part, seed=0)] for part in PARTS}
    assert len(whole_words["train"]) == len(whole_words["val"]) == 13
    assert all(whole_words["train"]) and not any(whole_words["val"])


def test_given_tokenizers_are_taken():
    write()
    given = [learn_sentences(sentences(words, 40, 5), 270 + i) for i, words in enumerate((ENGLISH, GERMAN))]
    for tokenizer, name in zip(given, ("a.json", "b.json"), strict=True):
        tokenizer.save(Path(name))
    paths = {"joint": False, "paths": ("a.json", "b.json")}
    configured = PairsConfig(corpus={"kind": "files", "folder": "text"}, root=Path("root"), tokenizer=paths)
    loaded = load_pairs(configured, seed=0)
    saved = load_pairs(config(tokenizer={"joint": False}), seed=0, saved=PairTokenizers(*given))
    for data in (loaded, saved):
        assert [data.tokenizers.source.digest, data.tokenizers.target.digest] == [one.digest for one in given]
        assert decoded(data, "train") == list(raw_pairs(configured, "train", seed=0))
    assert not list(Path("root", "tokens").glob("*.json")), "nothing was learnt"


# -- files --


def test_a_second_load_neither_learns_nor_tokenises(monkeypatch):
    write()
    first = load_pairs(config(), seed=0)
    for name in ("_encode", "_train_tokenizer"):
        monkeypatch.setattr(ours, name, None)
    again = load_pairs(config(), seed=0)
    assert [again.train[i][1].tolist() for i in range(40)] == [first.train[i][1].tolist() for i in range(40)]


def test_a_changed_source_or_tokenizer_is_noticed():
    write()
    load_pairs(config(), seed=0)
    write(val_en=["the cat"] * 9)
    changed = load_pairs(config(), seed=0)
    assert {source for source, _ in decoded(changed, "val")} == {"the cat"}
    larger = load_pairs(config(tokenizer={"vocab_size": 300}), seed=0)
    assert larger.tokenizers.source.n_symbols == 300
    whole = [larger.tokenizers.target.encode([text])[0] for _, text in raw_pairs(config(), "train", seed=0)]
    assert [larger.train[i][1][1:-1].tolist() for i in range(40)] == whole


def test_symbols_beyond_a_byte_or_two_fit(monkeypatch):
    write()
    for n_symbols, kind in ((256, pa.uint8()), (257, pa.uint16()), (2**16, pa.uint16()), (2**16 + 1, pa.uint32())):
        assert ours._token_type(type("Symbols", (), {"n_symbols": n_symbols})) == kind


@pytest.mark.skipif(os.geteuid() == 0, reason="needs a folder that cannot be written")
def test_a_folder_that_may_not_be_written_is_refused():
    write()
    Path("root").mkdir(mode=0o500)
    (line,) = refusal(config())
    assert "permission denied" in line


def test_real_captions(real_data):
    corpus = {"kind": "files", "folder": real_data / "multi30k", "train": "val", "val": "test_2016_flickr"}
    configured = PairsConfig(corpus=corpus | {"test": None}, root=Path("root"), tokenizer={"vocab_size": 1000})
    data = load_pairs(configured, seed=0)
    assert [counts.pairs for counts in data.counts.values()] == [1004, 1000, 10]
    assert sorted(decoded(data, "val")) == sorted(raw_pairs(configured, "val", seed=0))
