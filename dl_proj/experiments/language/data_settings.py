"""Schemas of text data: source, tokens, windows."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from dl_proj.experiments.language.sources import TextSource
from dl_proj.experiments.settings import as_name
from dl_proj.settings.base import Strict


class BytesConfig(Strict):
    """A token is a byte: 256 symbols, no training, any file."""

    kind: Literal["bytes"] = "bytes"
    """kind of tokens"""


class BPEConfig(Strict):
    """Byte-level byte-pair encoding (Sennrich et al. 2016; Radford et al. 2019): subwords that can encode any text."""

    kind: Literal["bpe"] = "bpe"
    """kind of tokens"""
    vocab_size: int = Field(8192, ge=256, le=2**20)
    """bpe, wordpiece: number of symbols, trained on the training text; masked models have one more, the mask"""


class WordPieceConfig(Strict):
    """BERT's subwords (Devlin et al. 2019), which lose white space and, if lowercase, case; for masked models."""

    kind: Literal["wordpiece"] = "wordpiece"
    """kind of tokens"""
    vocab_size: int = Field(8192, ge=256, le=2**20)
    """bpe, wordpiece: number of symbols, trained on the training text; masked models have one more, the mask"""
    lowercase: bool = True
    """wordpiece: ignore case and accents"""


TokenizerConfig = Annotated[BytesConfig | BPEConfig | WordPieceConfig, Field(discriminator="kind")]


class TextDataConfig(Strict):
    """A text, split for training, validation and test, as windows of tokens."""

    source: TextSource = "files"
    """files: your own text at path; enwik8, wikitext2, wikitext103: downloaded, with their own splits"""
    path: Path | None = None
    """files: a file, or a folder with *.txt files, which are concatenated in order of their names"""
    root: Path = Path("data")
    """folder for downloads and token files"""
    val_share: float = Field(0.025, gt=0, lt=1)
    """files: fraction of each file held out for validation, just before the test text"""
    test_share: float = Field(0.025, gt=0, lt=1)
    """files: fraction of each file held out for the test, at its end"""
    tokenizer: TokenizerConfig = BytesConfig()
    """the tokens, chosen by kind"""
    window: int = Field(512, ge=2)
    """tokens per sequence"""
    sampling: Literal["random", "sequential"] = "random"
    """training windows: random starts in the text, or contiguous windows in shuffled order"""
    eval_stride: int | None = Field(None, ge=1)
    """tokens from one evaluation window to the next; less than window: tokens have more context; null: window"""

    @property
    def slug(self) -> str:
        """A short name for folders and files."""
        return as_name(self.source if self.path is None else self.path.stem)

    def mistakes(self) -> list[str]:
        """See Strict."""
        found = []
        if self.eval_stride is not None and self.eval_stride > self.window:
            found.append(
                f"eval_stride {self.eval_stride} must be at most window {self.window}, or tokens would be skipped"
            )
        if self.source == "files":
            if self.path is None:
                found.append("path is required with source: files")
            if self.val_share + self.test_share >= 1:
                found.append(f"val_share {self.val_share} and test_share {self.test_share} leave nothing to train on")
            return found
        for name in ("path", "val_share", "test_share"):
            value = getattr(self, name)
            if value != type(self).model_fields[name].default:
                found.append(f"{name} {value} has no effect: source {self.source} has its own text and splits")
        return found
