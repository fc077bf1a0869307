"""Tokens: bytes, and subwords that spell a text and come back as it."""

import io
import os
import pickle
import re
from itertools import pairwise
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from dl_proj.text import encodings
from dl_proj.text.encodings import NotUTF8, text_lines
from dl_proj.text.tokenizers import (
    SubwordTokenizer,
    Tokenizer,
    load_tokenizer,
    train_bpe,
    train_wordpiece,
)

TEXT = (
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of a "
    "wife.\nHowever little known the feelings or views of such a man may be on his first entering a neighbourhood,\n\n"
    '  this truth is so well fixed in the minds of the surrounding families [sic], "that he is considered..."\r\n'
)
BYTES = Tokenizer()
BPE = train_bpe(TEXT.splitlines(keepends=True) * 3, 400)
WORDPIECE = train_wordpiece(TEXT.splitlines(keepends=True) * 3, 150, lowercase=True)
ALL = pytest.mark.parametrize("tokenizer", [BYTES, BPE, WORDPIECE], ids=["bytes", "bpe", "wordpiece"])

any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.text(
    st.sampled_from("  \n\r\t the[MASK]é😀\u0301"), max_size=60
)


@ALL
@given(st.data())
def test_tokens_are_symbols_but_never_the_mask(tokenizer, data):
    tokens = tokenizer.encode(data.draw(any_text))
    assert all(0 <= token < tokenizer.n_symbols for token in tokens)
    assert tokenizer.mask_token not in tokens
    assert tokenizer.vocab_size == tokenizer.n_symbols + 1 == tokenizer.mask_token + 1


@given(any_text)
@settings(max_examples=300)
def test_bytes_and_bpe_spell_any_text_exactly(text):
    assert BYTES.encode(text) == list(text.encode())
    for tokenizer in (BYTES, BPE):
        assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.lists(st.integers(0, BPE.n_symbols - 1), max_size=30))
def test_any_tokens_are_text(tokens):
    assert BPE.decode(tokens) == BPE._subwords.decode(tokens), "as the library decodes them"
    data = bytes(token % 256 for token in tokens)
    assert BYTES.decode(data) == data.decode("utf-8", "replace")


@ALL
@given(st.data())
def test_a_stream_is_the_text(tokenizer, data):
    tokens = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=30))
    pieces = list(tokenizer.decode_stream(iter(tokens)))
    assert all(pieces)
    assert "".join(pieces) == tokenizer.decode(tokens)
    assert tokenizer.decode(tokens).count("[MASK]") >= tokens.count(tokenizer.mask_token)


def test_a_character_comes_as_soon_as_it_is_whole():
    given_out = []
    stream = BYTES.decode_stream(given_out.append(byte) or byte for byte in "a€😀".encode())
    assert [(character, len(given_out)) for character in stream] == [("a", 1), ("€", 4), ("😀", 8)]
    assert list(BYTES.decode_stream([0xE2, 0x82, 0x41])) == ["\ufffdA"]
    assert list(BYTES.decode_stream([0x41, 0xE2])) == ["A", "\ufffd"], "an unfinished one at the end, too"


def test_the_symbols_of_bpe_are_the_bytes_and_subwords_of_the_text():
    assert BPE.n_symbols == 400
    assert sorted(BPE._pieces[:256]) == [bytes([byte]) for byte in range(256)]
    data = TEXT.encode()
    assert all(piece in data for piece in BPE._pieces[256:])
    assert len(set(BPE._pieces)) == 400
    assert len(BPE.encode(TEXT)) < 0.5 * len(data)
    assert BPE.ordinary == range(400)


def test_bpe_merges_the_most_frequent_pair_first():
    """Sennrich et al. 2016, algorithm 1, on words with the spaces that lead them."""
    words = [" low"] * 5 + [" lower"] * 2 + [" newest"] * 6 + [" widest"] * 3
    learnt = train_bpe(["".join(words)], 256 + 8)
    split, merges = [list(word) for word in words], []
    while len(merges) < 8:
        pairs = [pair for word in split for pair in pairwise(word)]
        counts = {pair: pairs.count(pair) for pair in pairs}
        # ties are broken by the symbols' numbers; here any of the best will do, so follow the learnt one
        best = {"".join(pair): pair for pair, count in counts.items() if count == max(counts.values())}
        piece = learnt._pieces[256 + len(merges)].decode()
        assert piece in best
        merges.append(best[piece])
        for word in split:
            i = 0
            while i < len(word) - 1:
                if (word[i], word[i + 1]) == best[piece]:
                    word[i : i + 2] = [piece]
                i += 1


def test_learning_is_the_same_each_time():
    lines = TEXT.splitlines(keepends=True) * 3
    assert train_bpe(lines, 400).digest == BPE.digest
    assert train_wordpiece(lines, 150, lowercase=True).digest == WORDPIECE.digest
    assert len({BYTES.digest, BPE.digest, WORDPIECE.digest, train_bpe(lines, 399).digest}) == 4


def test_words_of_usual_length_are_learnt_from_whole():
    """The cut of long ones is of learning alone: nothing of it is in the file, and other words give what they gave."""
    lines = [*TEXT.splitlines(keepends=True), " " + "x" * 255, "\n", "ab" * 128]
    subwords = tokenizers.Tokenizer(tokenizers.models.BPE())
    subwords.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    subwords.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    subwords.train_from_iterator(lines, trainer)
    assert train_bpe(lines, 400).digest == SubwordTokenizer(subwords).digest


@pytest.mark.parametrize("learn", [train_bpe, lambda lines, size: train_wordpiece(lines, size, lowercase=True)])
def test_no_subword_is_learnt_from_more_than_256_characters(learn):
    """Or it would take time and memory without bound to learn from a text without spaces."""
    pieces = learn(["ab" * 5000, "\n"] * 3, 1000).pieces
    assert 200 < max(map(len, pieces)) <= 257  # with WordPiece's space


@pytest.mark.parametrize("unit", ["ab", "\0", "é", "GATTACA", "\t", "中文字"])
def test_texts_without_spaces_come_back(unit):
    text = unit * 3000
    learnt = train_bpe(list(text_lines(io.BytesIO(text.encode()), len(text.encode()))), 600)
    assert learnt.exact
    for length in (0, 1, 255, 256, 257, 1000, len(text)):
        assert learnt.decode(learnt.encode(text[:length])) == text[:length]
    assert len(learnt.encode(text)) <= len(text.encode()) / 100, "and are short"


def test_a_short_text_has_fewer_symbols():
    assert train_bpe(["ab"], 1000).n_symbols == 257


def test_wordpiece_has_words_without_case_and_space():
    assert WORDPIECE.decode(WORDPIECE.encode("A  TRUTH,\n universally ")) == " a truth , universally"
    cased = train_wordpiece([TEXT], 300, lowercase=False)
    assert cased.decode(cased.encode("However a  truth")) == " However a truth"
    assert WORDPIECE.n_symbols == 150
    assert WORDPIECE.ordinary == range(1, 150)


def test_what_wordpiece_cannot_spell_is_unknown():
    assert WORDPIECE.encode("truth 中 man")[1:-1] == [0]
    assert WORDPIECE.decode([0]) == " [UNK]"
    brackets = train_wordpiece(["[UNK] [unk]\n"] * 9, 256, lowercase=False)
    assert 0 not in brackets.encode("[UNK]"), "the text's own is no unknown word"
    assert brackets.decode(brackets.encode("[UNK]")) == " [ UNK ]"


def test_wordpiece_keeps_to_its_size_among_many_characters():
    many = "".join(chr(0x4E00 + i) for i in range(3000)) + "".join(chr(0x430 + i) for i in range(30)) * 9
    learnt = train_wordpiece([many], 256, lowercase=True)
    assert learnt.n_symbols <= 256
    frequent = "".join(chr(0x430 + i) for i in range(30) if i != 9)  # its accent goes with the case
    assert 0 not in learnt.encode(frequent), "it has the most frequent"
    assert 0 in learnt.encode(many)


def words_of(tokenizer, text):
    words = []
    for token in tokenizer.encode(text):
        words += [[]] if tokenizer.starts_word[token] or not words else []
        words[-1].append(token)
    return [tokenizer.decode(word) for word in words]


@pytest.mark.parametrize("tokenizer", [BYTES, BPE], ids=["bytes", "bpe"])
def test_a_word_has_what_leads_it(tokenizer):
    text = "12 men,however: a  wife\nof (süße."
    assert words_of(tokenizer, text) == re.findall(r"[^\w]?\w+|[^\w]", text)


def test_the_words_of_wordpiece():
    found = words_of(WORDPIECE, "a man,However: truth-neighbourhoods 中")
    assert found == [" a", " man", " ,", " however", " [UNK]", " truth", " [UNK]", " neighbourhoods", " [UNK]"]


@ALL
def test_there_is_a_say_on_every_symbol(tokenizer):
    assert tokenizer.starts_word.shape == (tokenizer.vocab_size,)
    assert tokenizer.starts_word[tokenizer.mask_token]


# -- lines --


@given(st.text(st.sampled_from("ab\r\n é😀"), max_size=40), st.integers(4, 9), st.integers(0, 5))
def test_lines_are_the_text_each_with_its_end(text, limit, more):
    data = text.encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encodings, "_LINE", limit)
        lines = list(text_lines(io.BytesIO(data + b"x" * more), len(data)))
    assert "".join(lines) == text
    assert all("\n" not in line[:-1] for line in lines)
    assert all(len(line.encode()) <= limit + 3 for line in lines)
    if limit > len(data):
        assert lines == text.splitlines(keepends=True) if "\r" not in text else True


@given(st.binary(max_size=40), st.integers(4, 9))
def test_the_offset_of_what_is_no_text(data, limit):
    try:
        data.decode()
        place = None
    except UnicodeDecodeError as error:
        place = error.start
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encodings, "_LINE", limit)
        try:
            found = None if list(text_lines(io.BytesIO(data), len(data))) or not data else -1
        except NotUTF8 as error:
            found = error.offset
    assert found == place


def test_a_file_that_became_shorter_ends():
    assert list(text_lines(io.BytesIO(b"ab\ncd"), 99)) == ["ab\n", "cd"]


# -- files --


@pytest.mark.parametrize("tokenizer", [BPE, WORDPIECE], ids=["bpe", "wordpiece"])
def test_saved_subwords_are_the_same(tokenizer):
    tokenizer.save(Path("deep/tokenizer.json"))
    again = load_tokenizer(Path("deep/tokenizer.json"))
    assert again.digest == tokenizer.digest
    assert again.encode(TEXT) == tokenizer.encode(TEXT)
    assert (again._pieces, again.ordinary) == (tokenizer._pieces, tokenizer.ordinary)
    assert tokenizers.Tokenizer.from_file("deep/tokenizer.json").encode(TEXT).ids, "the library's own format"


def test_bytes_need_no_file():
    BYTES.save(Path("tokenizer.json"))
    assert not Path("tokenizer.json").exists()


@pytest.mark.parametrize("content", ["", "{}", "no json", '{"version": "1.0"}', b"\xff\xfe"])
def test_a_file_that_is_no_tokenizer(content):
    Path("t.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=r"\w"):  # it says something
        load_tokenizer(Path("t.json"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_is_no_tokenizer():
    os.mkfifo("tokenizer.json")
    with pytest.raises(ValueError, match="not a file"):
        load_tokenizer(Path("tokenizer.json"))


def test_other_tokenizers_are_refused():
    with pytest.raises(ValueError, match="its model is Unigram, must be BPE or WordPiece"):
        SubwordTokenizer(tokenizers.Tokenizer(tokenizers.models.Unigram([("a", 0.0)])))
    with pytest.raises(ValueError, match="byte-level"):
        SubwordTokenizer(tokenizers.Tokenizer(tokenizers.models.BPE({"中": 0}, [])))
    with pytest.raises(ValueError, match="numbered"):
        SubwordTokenizer(tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "b": 2}, [])))
    with pytest.raises(ValueError, match="numbered"):
        SubwordTokenizer(tokenizers.Tokenizer(tokenizers.models.BPE()))


class Encoded:
    """A dataset that tokenises in whatever process it is asked."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return len(BPE.encode(TEXT * 50))


def test_a_loaders_process_may_encode():
    """The library encodes in threads, which a forked process has not."""
    length = Encoded()[0]
    assert [batch.item() for batch in DataLoader(Encoded(), num_workers=1, timeout=60)] == [length] * 2


def test_a_tokenizer_can_be_sent_to_another_process():
    assert pickle.loads(pickle.dumps(BPE)).encode(TEXT) == BPE.encode(TEXT)
