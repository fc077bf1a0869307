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


class HubTextConfig(Strict):
    """Text of a dataset on the Hugging Face hub, which is streamed into a file."""

    name: str | None = Field(None, min_length=1)
    """hub: name of the dataset, or a folder with Parquet, JSON lines or other files that the datasets library reads"""
    subset: str | None = Field(None, min_length=1)
    """hub: the dataset's configuration; null: none"""
    revision: str | None = Field(None, min_length=1)
    """hub: its commit, branch or tag; null: the newest at the first use"""
    column: str = Field("text", min_length=1)
    """hub: column of the text; each row becomes a line or, with line feeds, several"""
    train: str = Field("train", min_length=1)
    """hub: split of the training text"""
    val: str | None = Field(None, min_length=1)
    """hub: split of the validation text; null: val_share of the training text"""
    test: str | None = Field(None, min_length=1)
    """hub: split of the test text; null: test_share of the training text, at its end"""
    max_bytes: int | None = Field(None, ge=1)
    """hub: stop reading the training text after the row that reaches this size; null: read all"""

    @property
    def slug(self) -> str:
        """A short name for folders and files."""
        return as_name(str(self.name).rstrip("/").rpartition("/")[2])


class TextDataConfig(Strict):
    """A text, split for training, validation and test, as windows of tokens."""

    source: TextSource = "files"
    """files: your own text at path; enwik8, wikitext2, wikitext103: downloaded, with their own splits; hub: any text of
    the Hugging Face hub, streamed into a file"""
    path: Path | None = None
    """files: a file, or a folder with *.txt files, which are concatenated in order of their names"""
    hub: HubTextConfig = HubTextConfig()
    """hub: which dataset"""
    root: Path = Path("data")
    """folder for downloads and token files"""
    val_share: float = Field(0.025, gt=0, lt=1)
    """files: fraction of each file held out for validation, just before the test text; hub: see hub.val"""
    test_share: float = Field(0.025, gt=0, lt=1)
    """files: fraction of each file held out for the test, at its end; hub: see hub.test"""
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
        if self.source == "hub":
            return self.hub.slug
        return as_name(self.source if self.path is None else self.path.stem)

    def mistakes(self) -> list[str]:
        """See Strict."""
        found = []
        if self.eval_stride is not None and self.eval_stride > self.window:
            found.append(
                f"eval_stride {self.eval_stride} must be at most window {self.window}, or tokens would be skipped"
            )
        if self.source == "files" and self.path is None:
            found.append("path is required with source: files")
        if self.source == "hub" and self.hub.name is None:
            found.append("hub.name is required with source: hub")
        if self.source in ("files", "hub") and self.val_share + self.test_share >= 1:
            found.append(f"val_share {self.val_share} and test_share {self.test_share} leave nothing to train on")
        return found + self._without_effect()

    def _without_effect(self) -> list[str]:
        own = f"source {self.source} has its own text and splits"
        reasons = {"path": own, "val_share": own, "test_share": own, "hub": f"source is {self.source}, not hub"}
        if self.source == "files":
            reasons = {"hub": reasons["hub"]}
        elif self.source == "hub":
            named = {"val_share": self.hub.val, "test_share": self.hub.test}
            reasons = {name: f"hub has a split for it, {split}" for name, split in named.items() if split is not None}
            reasons["path"] = "source hub has its own text"
        found = []
        for name, reason in reasons.items():
            value = getattr(self, name)
            if value != type(self).model_fields[name].default:
                given = f"hub.name {value.name}" if name == "hub" else f"{name} {value}"
                found.append(f"{given} has no effect: {reason}")
        return found
