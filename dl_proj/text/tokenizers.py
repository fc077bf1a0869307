"""Text as tokens and back: bytes, or subwords that the ``tokenizers`` library learns from the training text."""

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
_PROBE = "E\u0301 \ufb01\t\u0130  \u2028[MASK] x,y \n."  # what normalising, stripping or splitting would change
_LONGEST_WORD = 256  # characters of a word that subwords are learnt from
_ALPHABET = 1000  # characters that WordPiece knows at most; words with others are unknown


class Tokenizer:
    """Bytes as tokens: token t is the byte t; the mask is one symbol more, which no text contains.

    Args:
        pieces: bytes of text that each token stands for; a subclass may give others than the 256.
        n_special: so many tokens, the first ones, stand for no text.
    """

    def __init__(self, pieces: list[bytes] | None = None, n_special: int = 0) -> None:
        self._pieces = [bytes([byte]) for byte in range(256)] if pieces is None else pieces
        self._n_special = n_special

    @property
    def n_symbols(self) -> int:
        """Tokens that text may become, 0 to n_symbols - 1: the vocabulary of a causal model."""
        return len(self._pieces)

    @property
    def pieces(self) -> list[bytes]:
        """The bytes of text that each token stands for."""
        return list(self._pieces)

    @property
    def mask_token(self) -> int:
        """The mask: the last symbol."""
        return self.n_symbols

    @property
    def vocab_size(self) -> int:
        """Symbols with the mask: the vocabulary of a masked model."""
        return self.n_symbols + 1

    @property
    def ordinary(self) -> range:
        """Tokens that stand for text: no special ones, no mask."""
        return range(self._n_special, self.n_symbols)

    @property
    def starts_word(self) -> Tensor:
        """(vocab_size,) bool: whether a token begins a word.

        A word is letters and digits with the space, or whatever mark, that stands directly before them; other marks are
        words of their own. Bytes beyond ASCII count as letters.
        """
        return torch.tensor([not (piece[:1].isalnum() or piece[:1] >= b"\x80") for piece in self._pieces] + [True])

    @property
    def digest(self) -> str:
        """A word for all that decides which tokens a text becomes."""
        return "bytes"

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, each below n_symbols."""
        return list(text.encode())

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens; bytes that are no UTF-8 become U+FFFD, the mask ``[MASK]``."""
        return "".join(self.decode_stream(tokens))

    def decode_stream(self, tokens: Iterable[int]) -> Iterator[str]:
        """Whole characters, each as soon as its last token came; together what :meth:`decode` gives."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for token in tokens:
            if text := decoder.decode(_MASK if token == self.mask_token else self._pieces[token]):
                yield text
        if text := decoder.decode(b"", final=True):
            yield text

    def save(self, path: Path) -> None:
        """Write what :func:`load_tokenizer` reads; bytes need no file, and write none."""


class SubwordTokenizer(Tokenizer):
    """Subwords, found line by line.

    Byte-level BPE spells any text exactly. WordPiece loses white space (decoded, each word has one space before it) and
    perhaps case; words that it cannot spell become its token 0, ``[UNK]``.

    Args:
        subwords: a byte-level BPE or a WordPiece tokenizer as :func:`train_bpe` and :func:`train_wordpiece` make them.

    Raises:
        ValueError: it is another one.
    """

    def __init__(self, subwords: tokenizers.Tokenizer) -> None:
        numbers = subwords.get_vocab()
        symbols = sorted(numbers, key=lambda symbol: numbers[symbol])
        if not symbols or sorted(numbers.values()) != list(range(len(symbols))):
            raise ValueError("its symbols are not numbered from 0 on")
        if isinstance(subwords.model, models.BPE):
            if set("".join(symbols)) - _BYTE_OF.keys():
                raise ValueError("it is no byte-level BPE")
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
        """Whether it spells every text, so that it comes back as it was: not WordPiece, nor a BPE that normalises."""
        spelled = {bytes([byte]) for byte in range(256)} <= set(self._pieces)
        return spelled and self.decode(self.encode_each([_PROBE])[0]) == _PROBE

    def encode(self, text: str) -> list[int]:
        """Tokens of a text: the same, one by one, as in a token file."""
        data = text.encode()
        return self.encode_lines(list(text_lines(io.BytesIO(data), len(data))))

    def encode_lines(self, lines: list[str]) -> list[int]:
        """Tokens of lines as :func:`text_lines` gives them."""
        return list(itertools.chain.from_iterable(self.encode_each(lines)))

    def encode_each(self, texts: list[str]) -> list[list[int]]:
        """Tokens of each of some texts, line ends in them like other characters."""
        encodings = self._subwords.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def save(self, path: Path) -> None:
        """Write what :func:`load_tokenizer` reads: the library's tokenizer.json."""
        write_text(path, self._subwords.to_str(pretty=True))


def load_tokenizer(path: Path) -> SubwordTokenizer:
    """Subwords that were saved.

    Raises:
        ValueError: not a tokenizer that was saved here.
        OSError: no such file.
        CheckpointError: the SHA256SUMS beside it has another checksum.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is no file")
    agrees_with_sums(path)
    text = path.read_text(encoding="utf-8")
    try:
        subwords = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing more particular
        raise ValueError(str(error)) from None
    return SubwordTokenizer(subwords)


def train_bpe(lines: Iterable[str], vocab_size: int) -> SubwordTokenizer:
    """Byte-level byte-pair encoding (Sennrich et al. 2016, section 3.2, on bytes as Radford et al. 2019, section 2.2).

    The 256 bytes are symbols, so that any text can be spelled; the most frequent pair of symbols becomes a symbol,
    again and again, inside of words, which a space leads.

    Words are cut after ``_LONGEST_WORD`` bytes before subwords are learnt from them, or a text without spaces would
    need time and memory without bound. Texts are spelled as if they were not cut.

    Args:
        lines: a text, read once, never held as a whole.
        vocab_size: symbols; fewer if the text has no more pairs.
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
    pieces = pre_tokenizers.Split(tokenizers.Regex(rf"(?m).{{1,{_LONGEST_WORD}}}"), "isolated")  # m: . is any character
    return pre_tokenizers.Sequence([words, pieces])


def train_wordpiece(lines: Iterable[str], vocab_size: int, *, lowercase: bool) -> SubwordTokenizer:
    """Subwords as BERT has them (Devlin et al. 2019, section 3): words and marks of punctuation, divided where needed.

    Args:
        lines: a text, read twice, never held as a whole.
        vocab_size: symbols, ``[UNK]`` included; fewer if the text has no more pairs.
        lowercase: without case and accents.
    """
    subwords = _wordpiece(lowercase, {})
    subwords.pre_tokenizer = _with_short_words(subwords.pre_tokenizer)
    # Each character is a symbol at a word's start and another one inside. The library would number the latter in an
    # order that changes from run to run, and by it decide between pairs: so they are all named to it.
    alphabet = _alphabet(subwords, lines, min(_ALPHABET, vocab_size // 4))
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[_UNKNOWN, *(f"##{character}" for character in alphabet if _joins(subwords, character))],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    subwords.train_from_iterator(lines, trainer)
    return SubwordTokenizer(_wordpiece(lowercase, subwords.get_vocab()))  # to which a text's own [UNK] is no symbol


def _wordpiece(lowercase: bool, vocabulary: dict[str, int]) -> tokenizers.Tokenizer:
    subwords = tokenizers.Tokenizer(models.WordPiece(vocab=vocabulary, unk_token=_UNKNOWN))
    subwords.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    subwords.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    subwords.decoder = decoders.WordPiece()
    return subwords


def _alphabet(subwords: tokenizers.Tokenizer, lines: Iterable[str], size: int) -> list[str]:
    """The most frequent characters of a text, in order."""
    counts: Counter[str] = Counter()
    for line in lines:
        counts.update(subwords.normalizer.normalize_str(line))
    seen = [character for character in counts if not character.isspace()]
    return sorted(sorted(seen, key=lambda character: (-counts[character], character))[:size])


def _joins(subwords: tokenizers.Tokenizer, character: str) -> bool:
    """Whether a character can stand inside of a word."""
    return len(subwords.pre_tokenizer.pre_tokenize_str(subwords.normalizer.normalize_str(f"a{character}"))) == 1


def _byte_level_alphabet() -> dict[str, int]:
    """The byte that each character of the library's byte-level symbols stands for (Radford et al. 2019).

    Bytes that are visible characters of Latin-1 stand for themselves, the others, in order, for U+0100 and so on.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_level_alphabet()
