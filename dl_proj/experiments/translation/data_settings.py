"""Schemas of sentence pairs: source, languages, tokens."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from dl_proj.experiments.settings import as_name
from dl_proj.settings.base import Strict

_REVISIONS = {"wmt/wmt14": "b199e406369ec1b7634206d3ded5ba45de2fe696"}  # commits on the hub


class _OwnPairs(Strict):
    """The user's own pairs, some of which may have to be held out."""

    val_share: float = Field(0.01, gt=0, lt=1)
    """with val: null, fraction of the training pairs held out for validation"""
    test_share: float = Field(0.01, gt=0, lt=1)
    """with test: null, fraction of the training pairs held out for the test"""

    @property
    def held_out(self) -> dict[str, float]:
        """The splits without their own files, and their fractions of the training pairs."""
        return {part: getattr(self, f"{part}_share") for part in ("val", "test") if getattr(self, part) is None}

    def mistakes(self) -> list[str]:
        """See Strict."""
        found = []
        for part in ("val", "test"):
            name, given = f"{part}_share", getattr(self, part)
            share = getattr(self, name)
            if given is not None and share != type(self).model_fields[name].default:
                found.append(f"{name} {share} has no effect with {part} {given}; {part}: null holds out pairs")
        if sum(self.held_out.values()) >= 1:
            found.append(f"val_share {self.val_share} and test_share {self.test_share} leave nothing to train on")
        parts = [part for part in ("train", "val", "test") if getattr(self, part) is not None]
        for i, part in enumerate(parts):
            found += [
                f"{part} and {other} are both {getattr(self, part)}, must differ; null holds out training pairs"
                for other in parts[i + 1 :]
                if getattr(self, part) == getattr(self, other)
            ]
        return found


class LinePairsConfig(_OwnPairs):
    """Two text files per split, ``<folder>/<split>.<language>``, translations of each other line by line."""

    kind: Literal["files"] = "files"
    """source of the pairs: files (line by line), csv or parquet (a column per language), or hub (Hugging Face)"""
    folder: Path
    """files: folder of the files"""
    train: str = Field("train", min_length=1)
    """training pairs; files: file name without the suffix, which is the language; csv, parquet: path"""
    val: str | None = Field("val", min_length=1)
    """validation pairs, as for train; null: val_share of the training pairs"""
    test: str | None = Field("test", min_length=1)
    """test pairs, as for train; null: test_share of the training pairs"""

    @property
    def slug(self) -> str:
        """A short name for folders and files."""
        return as_name(self.folder.name)


class _TablePairsConfig(_OwnPairs):
    """Tables with a column per language, named after it."""

    train: Path
    """training pairs; files: file name without the suffix, which is the language; csv, parquet: path"""
    val: Path | None = None
    """validation pairs, as for train; null: val_share of the training pairs"""
    test: Path | None = None
    """test pairs, as for train; null: test_share of the training pairs"""

    @property
    def slug(self) -> str:
        """A short name for folders and files."""
        return as_name(self.train.stem)


class CsvPairsConfig(_TablePairsConfig):
    """CSV files in UTF-8 with a header."""

    kind: Literal["csv"] = "csv"
    """source of the pairs: files (line by line), csv or parquet (a column per language), or hub (Hugging Face)"""


class ParquetPairsConfig(_TablePairsConfig):
    """Parquet files."""

    kind: Literal["parquet"] = "parquet"
    """source of the pairs: files (line by line), csv or parquet (a column per language), or hub (Hugging Face)"""


class HubPairsConfig(Strict):
    """A dataset on the Hugging Face hub, with splits train, validation and test."""

    kind: Literal["hub"] = "hub"
    """source of the pairs: files (line by line), csv or parquet (a column per language), or hub (Hugging Face)"""
    name: str = Field("wmt/wmt14", min_length=1)
    """hub: name of the dataset; its rows must be {translation: {de: ..., en: ...}}, or {de: ..., en: ...}"""
    subset: str | None = Field("de-en", min_length=1)
    """hub: the dataset's configuration; null: none"""
    revision: str | None = Field(None, min_length=1)
    """hub: its commit, branch or tag; null: the newest, but for wmt/wmt14 the commit of 3 April 2024"""

    @property
    def pinned(self) -> str | None:
        """The revision to download; None: the newest."""
        return self.revision or _REVISIONS.get(self.name)

    @property
    def slug(self) -> str:
        """A short name for folders and files."""
        return as_name(self.name.rpartition("/")[2])


CorpusConfig = Annotated[
    LinePairsConfig | CsvPairsConfig | ParquetPairsConfig | HubPairsConfig, Field(discriminator="kind")
]


class PairTokenizerConfig(Strict):
    """Byte-level byte-pair encoding (Sennrich et al. 2016; Radford et al. 2019), which encodes any sentence exactly."""

    kind: Literal["bpe"] = "bpe"
    """kind of tokens"""
    vocab_size: int = Field(8000, ge=256, le=2**20)
    """number of symbols per language, or in total if joint, trained on the training pairs; models have one more, the
    end of a sentence"""
    joint: bool = True
    """share one vocabulary between both languages (Vaswani et al. 2017, section 5.1); required by tied embeddings"""
    paths: tuple[Path, ...] = ()
    """tokenizer.json files to use instead of training: one if joint, otherwise the source's and the target's"""

    def mistakes(self) -> list[str]:
        """See Strict."""
        found, needed = [], 1 if self.joint else 2
        if len(self.paths) not in (0, needed):
            found.append(f"paths must have {needed} with joint: {str(self.joint).lower()} (got {len(self.paths)})")
        if self.paths and self.vocab_size != type(self).model_fields["vocab_size"].default:
            found.append(f"vocab_size {self.vocab_size} has no effect: paths define the tokens")
        return found


class PairsConfig(Strict):
    """Sentences and their translations, as tokens."""

    corpus: CorpusConfig
    """the pairs, by kind"""
    source_language: str = Field("en", min_length=1)
    """source language: its file suffix, column or key"""
    target_language: str = Field("de", min_length=1)
    """target language: its file suffix, column or key"""
    max_length: int = Field(128, ge=2)
    """maximum tokens per sentence, including the end symbol; longer pairs are skipped and counted"""
    tokenizer: PairTokenizerConfig = PairTokenizerConfig()
    """the tokens"""
    root: Path = Path("data")
    """folder for downloads, converted pairs and token files"""

    @field_validator("source_language", "target_language", mode="before")
    @classmethod
    def _read_no_as_norwegian(cls, value: Any) -> Any:
        return "no" if value is False else value  # YAML 1.1 parses no as False

    def mistakes(self) -> list[str]:
        """See Strict."""
        if self.source_language == self.target_language:
            return [f"source_language and target_language are both {self.source_language!r}, must differ"]
        return []
