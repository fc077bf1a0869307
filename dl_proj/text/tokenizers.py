"""Tokenizers of text: bytes, or subwords trained on the training text by the ``tokenizers`` library."""

import codecs
import hashlib
import io
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import tokenizers
import torch
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from dl_proj.text.encodings import text_lines
from my_custom_ai.custom_train.checksums import agrees_with_sums
from my_custom_ai.utils.files import write_text

_MASK = b"[MASK]"
_UNKNOWN = "[UNK]"
_PROBE = "E\u0301 \ufb01\t\u0130  \u2028[MASK] x,y \n."  # text that normalising, stripping or splitting would change
_LONGEST_WORD = 256  # bytes (WordPiece: characters); longer words are cut when subwords are trained
_ALPHABET = 1000  # maximum number of characters in WordPiece's vocabulary; words with others are unknown


class Tokenizer:
    """Bytes as tokens: token t is byte t; the mask is an additional symbol, which no text contains.

    Args:
        pieces: the bytes of text of each token; None: the 256 bytes.
        n_special: number of tokens, at the start, that represent no text.
    """

    def __init__(self, pieces: list[bytes] | None = None, n_special: int = 0) -> None:
        self._pieces = [bytes([byte]) for byte in range(256)] if pieces is None else pieces
        self._n_special = n_special

    @property
    def n_symbols(self) -> int:
        """Number of symbols in text, 0 to n_symbols - 1: the vocabulary of a causal model."""
        return len(self._pieces)

    @property
    def pieces(self) -> list[bytes]:
        """The bytes of text of each token."""
        return list(self._pieces)

    @property
    def mask_token(self) -> int:
        """The mask: the last symbol."""
        return self.n_symbols

    @property
    def vocab_size(self) -> int:
        """Number of symbols including the mask: the vocabulary of a masked model."""
        return self.n_symbols + 1

    @property
    def ordinary(self) -> range:
        """The tokens that represent text, without special ones and the mask."""
        return range(self._n_special, self.n_symbols)

    @property
    def starts_word(self) -> Tensor:
        """Whether each token starts a word, (vocab_size,) bool.

        A word consists of letters and digits, with the space or other character directly before them; all other
        characters are words of their own. Bytes beyond ASCII count as letters.
        """
        return torch.tensor([not (piece[:1].isalnum() or piece[:1] >= b"\x80") for piece in self._pieces] + [True])

    @property
    def digest(self) -> str:
        """Identifies the mapping from text to tokens."""
        return "bytes"

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, each below n_symbols."""
        return list(text.encode())

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of tokens; bytes that are not UTF-8 become U+FFFD, the mask becomes ``[MASK]``."""
        return "".join(self.decode_stream(tokens))

    def decode_stream(self, tokens: Iterable[int]) -> Iterator[str]:
        """Yield whole characters, each as soon as its last token arrives; together they equal :meth:`decode`."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for token in tokens:
            if text := decoder.decode(_MASK if token == self.mask_token else self._pieces[token]):
                yield text
        if text := decoder.decode(b"", final=True):
            yield text

    def save(self, path: Path) -> None:
        """Write a file for :func:`load_tokenizer`; a tokenizer of bytes writes none."""


class SubwordTokenizer(Tokenizer):
    """Subwords; text is tokenised line by line.

    Byte-level BPE encodes any text exactly. WordPiece loses white space (when decoded, each word has one space before
    it) and, if lowercase, case; words that it cannot encode become its token 0, ``[UNK]``.

    Args:
        subwords: a byte-level BPE or WordPiece tokenizer, as built by :func:`train_bpe` and :func:`train_wordpiece`.

    Raises:
        ValueError: another kind of tokenizer.
    """

    def __init__(self, subwords: tokenizers.Tokenizer) -> None:
        numbers = subwords.get_vocab()
        symbols = sorted(numbers, key=lambda symbol: numbers[symbol])
        if not symbols or sorted(numbers.values()) != list(range(len(symbols))):
            raise ValueError("its symbols are not numbered consecutively from 0")
        if isinstance(subwords.model, models.BPE):
            if set("".join(symbols)) - _BYTE_OF.keys():
                raise ValueError("it is not a byte-level BPE")
            super().__init__([bytes(_BYTE_OF[character] for character in symbol) for symbol in symbols])
        elif isinstance(subwords.model, models.WordPiece):
            pieces = [symbol[2:] if symbol.startswith("##") else f" {symbol}" for symbol in symbols]
            super().__init__([piece.encode() for piece in pieces], n_special=1)
        else:
            raise ValueError(f"its model is {type(subwords.model).__name__}, must be BPE or WordPiece")
        self._subwords = subwords

    @property
    def digest(self) -> str:
        """See Tokenizer."""
        return hashlib.sha256(self._subwords.to_str().encode()).hexdigest()

    @property
    def exact(self) -> bool:
        """Whether decoding recovers every text exactly: not with WordPiece, nor with a BPE that normalises."""
        has_all_bytes = {bytes([byte]) for byte in range(256)} <= set(self._pieces)
        return has_all_bytes and self.decode(self.encode_each([_PROBE])[0]) == _PROBE

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, identical to those in a token file."""
        data = text.encode()
        return self.encode_lines(list(text_lines(io.BytesIO(data), len(data))))

    def encode_lines(self, lines: list[str]) -> list[int]:
        """Return the tokens of lines as yielded by :func:`text_lines`."""
        return list(itertools.chain.from_iterable(self.encode_each(lines)))

    def encode_each(self, texts: list[str]) -> list[list[int]]:
        """Return the tokens of each text; line ends are treated like other characters."""
        encodings = self._subwords.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def save(self, path: Path) -> None:
        """Write a file for :func:`load_tokenizer`: the library's tokenizer.json."""
        write_text(path, self._subwords.to_str(pretty=True))


def load_tokenizer(path: Path) -> SubwordTokenizer:
    """Load a saved tokenizer of subwords.

    Raises:
        ValueError: not a tokenizer saved by this project.
        OSError: no such file.
        CheckpointError: its checksum differs from that in SHA256SUMS.
    """
    if path.exists() and not path.is_file():
        raise ValueError("not a file")
    agrees_with_sums(path)
    text = path.read_text(encoding="utf-8")
    try:
        subwords = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing more specific
        raise ValueError(str(error)) from None
    return SubwordTokenizer(subwords)


def train_bpe(lines: Iterable[str], vocab_size: int) -> SubwordTokenizer:
    """Train byte-level BPE (Sennrich et al. 2016, section 3.2; on bytes as in Radford et al. 2019, section 2.2).

    The vocabulary starts with the 256 bytes, so that any text can be encoded; repeatedly, the most frequent pair of
    symbols within words (with their leading space) becomes a new symbol.

    For training, words are cut after ``_LONGEST_WORD`` bytes: a text without spaces would otherwise need unbounded
    time and memory. Encoding does not cut words.

    Args:
        lines: a text, read once, never held in memory as a whole.
        vocab_size: number of symbols; fewer if the text has no more pairs.
    """
    subwords = tokenizers.Tokenizer(models.BPE())
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    subwords.pre_tokenizer = _with_short_words(words)
    subwords.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    subwords.train_from_iterator(lines, trainer)
    subwords.pre_tokenizer = words
    return SubwordTokenizer(subwords)


def _with_short_words(words: pre_tokenizers.PreTokenizer) -> pre_tokenizers.PreTokenizer:
    # m: . matches any character
    pieces = pre_tokenizers.Split(tokenizers.Regex(rf"(?m).{{1,{_LONGEST_WORD}}}"), "isolated")
    return pre_tokenizers.Sequence([words, pieces])


def train_wordpiece(lines: Iterable[str], vocab_size: int, *, lowercase: bool) -> SubwordTokenizer:
    """Train BERT's subwords (Devlin et al. 2019, section 3): words and punctuation, split where needed.

    Args:
        lines: a text, read twice, never held in memory as a whole.
        vocab_size: number of symbols, including ``[UNK]``; fewer if the text has no more pairs.
        lowercase: ignore case and accents.
    """
    subwords = _wordpiece(lowercase, {})
    subwords.pre_tokenizer = _with_short_words(subwords.pre_tokenizer)
    # Each character is one symbol at the start of a word and another one inside. The library would number the latter
    # in an order that varies between runs, and that number breaks ties between pairs; so they are passed explicitly.
    alphabet = _alphabet(subwords, lines, min(_ALPHABET, vocab_size // 4))
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[_UNKNOWN, *(f"##{character}" for character in alphabet if _joins(subwords, character))],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    subwords.train_from_iterator(lines, trainer)
    return SubwordTokenizer(_wordpiece(lowercase, subwords.get_vocab()))  # here, [UNK] in a text is not a symbol


def _wordpiece(lowercase: bool, vocabulary: dict[str, int]) -> tokenizers.Tokenizer:
    subwords = tokenizers.Tokenizer(models.WordPiece(vocab=vocabulary, unk_token=_UNKNOWN))
    subwords.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    subwords.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    subwords.decoder = decoders.WordPiece()
    return subwords


def _alphabet(subwords: tokenizers.Tokenizer, lines: Iterable[str], size: int) -> list[str]:
    """Return the most frequent characters of a text, sorted."""
    counts: Counter[str] = Counter()
    for line in lines:
        counts.update(subwords.normalizer.normalize_str(line))
    seen = [character for character in counts if not character.isspace()]
    return sorted(sorted(seen, key=lambda character: (-counts[character], character))[:size])


def _joins(subwords: tokenizers.Tokenizer, character: str) -> bool:
    """Whether a character can occur inside a word."""
    return len(subwords.pre_tokenizer.pre_tokenize_str(subwords.normalizer.normalize_str(f"a{character}"))) == 1


def _byte_level_alphabet() -> dict[str, int]:
    """Return the byte that each character in the library's byte-level symbols represents (Radford et al. 2019).

    Visible Latin-1 characters represent their own byte; the other bytes, in order, are represented by U+0100 onwards.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_level_alphabet()
