"""Tokens of sentences: every sentence comes back, and no text becomes a boundary."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from dl_proj.experiments.translation.sentences import (
    PairTokenizers,
    SentenceTokenizer,
    learn_sentences,
    load_tokenizers,
    saved_tokenizers,
    tokenizer_paths,
)
from dl_proj.settings.errors import ConfigError
from dl_proj.text.tokenizers import SubwordTokenizer, train_bpe, train_wordpiece

TEXT = ["the dog and the cat", "the bird", "dogs, cats and birds", "süß ist der Hund", "der Vogel und der Hund"] * 5
TOKENIZER = learn_sentences(TEXT, 290)
any_sentence = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.text(
    st.sampled_from("  \n\r\t\x0b\x85\u2028\u2029\u200d\ufeff\x00 the dogé😀\u0301İ[MASK]"), max_size=40
)


@given(st.lists(any_sentence, max_size=5))
@settings(max_examples=300)
def test_sentences_come_back(sentences):
    encoded = TOKENIZER.encode(sentences)
    assert [TOKENIZER.decode(tokens) for tokens in encoded] == sentences
    for tokens, sentence in zip(encoded, sentences, strict=True):
        assert all(0 <= token < TOKENIZER.n_symbols for token in tokens)
        assert sum(TOKENIZER.bytes_of[tokens].tolist()) == len(sentence.encode()) + 1, "the space before it"
        with_ends = [TOKENIZER.boundary, *tokens, TOKENIZER.boundary]
        assert TOKENIZER.decode(with_ends) == sentence


def test_the_first_word_is_the_symbol_of_mid_sentence():
    first, again = TOKENIZER.encode(["the", "dog the"])
    assert first == again[-1:]
    assert TOKENIZER.subwords.pieces[first[0]] == b" the"


def test_the_boundary_is_one_symbol_more():
    assert TOKENIZER.boundary == TOKENIZER.n_symbols == 290 == TOKENIZER.vocab_size - 1
    assert len(TOKENIZER.bytes_of) == 291 and TOKENIZER.bytes_of[-1] == 0
    assert TOKENIZER.decode([TOKENIZER.boundary]) == ""


def test_a_joint_one_is_one_file():
    PairTokenizers(TOKENIZER, TOKENIZER).save(Path("tokenizer.json"))
    assert [path.name for path in Path().iterdir()] == ["tokenizer.json"]
    loaded = saved_tokenizers(Path("tokenizer.json"), joint=True)
    assert loaded.joint and loaded.source.digest == TOKENIZER.digest
    assert loaded.source.encode(TEXT) == TOKENIZER.encode(TEXT)


def test_separate_ones_are_two_files():
    other = learn_sentences(TEXT, 280)
    PairTokenizers(TOKENIZER, other).save(Path("tokenizer.json"))
    assert sorted(path.name for path in Path().iterdir()) == ["source_tokenizer.json", "target_tokenizer.json"]
    loaded = saved_tokenizers(Path("tokenizer.json"), joint=False)
    assert not loaded.joint
    assert (loaded.source.n_symbols, loaded.target.n_symbols) == (290, 280)
    assert tokenizer_paths(Path("a/t.json"), joint=False) == (Path("a/source_t.json"), Path("a/target_t.json"))


def lossy():
    """A byte-level BPE without capitals."""
    subwords = train_bpe(TEXT, 290)
    subwords._subwords.normalizer = normalizers.Lowercase()
    return SubwordTokenizer(subwords._subwords)


def without_a_byte():
    """A byte-level BPE that cannot spell a q."""
    symbols = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - {"q"})
    subwords = Tokenizer(models.BPE({symbol: number for number, symbol in enumerate(symbols)}, []))
    subwords.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return SubwordTokenizer(subwords)


@pytest.mark.parametrize(
    "make", [lambda: train_wordpiece(TEXT, 100, lowercase=False), lossy, without_a_byte], ids=["pieces", "case", "byte"]
)
def test_tokens_that_lose_text_are_refused(make):
    with pytest.raises(ValueError, match="does not encode every text exactly"):
        SentenceTokenizer(make())
    make().save(Path("t.json"))
    with pytest.raises(ConfigError, match=r"t\.json is not a tokenizer of sentences \(it does not encode"):
        load_tokenizers([Path("t.json")], joint=True)


def test_files_that_are_not_there_or_no_tokenizers():
    with pytest.raises(ConfigError, match=r"data.tokenizer: t.json: no such file or directory"):
        saved_tokenizers(Path("t.json"), joint=True)
    TOKENIZER.save(Path("source_t.json"))
    with pytest.raises(ConfigError, match=r"target_t.json: no such file"):
        saved_tokenizers(Path("t.json"), joint=False)
    Path("t.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"t.json is not a tokenizer of sentences"):
        saved_tokenizers(Path("t.json"), joint=True)
