"""Schemas of sentence pairs: where they come from, their languages, their tokens."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from dl_proj.experiments.settings import as_name
from dl_proj.settings.base import Strict

_REVISIONS = {"wmt/wmt14": "b199e406369ec1b7634206d3ded5ba45de2fe696"}  # commits on the hub


class _OwnPairs(Strict):
    """Pairs of one's own, of which some may have to be held out."""

    val_share: float = Field(0.01, gt=0, lt=1)
    """val: null: share of the training pairs that is held out for validation, drawn from the seed"""
    test_share: float = Field(0.01, gt=0, lt=1)
    """test: null: share of the training pairs that is held out for the test, drawn from the seed"""

    @property
    def held_out(self) -> dict[str, float]:
        """The parts that have no files of their own, and their shares of the training pairs."""
        return {part: getattr(self, f"{part}_share") for part in ("val", "test") if getattr(self, part) is None}

    def mistakes(self) -> list[str]:
        """See Strict."""
        found = []
        for part in ("val", "test"):
            name, given = f"{part}_share", getattr(self, part)
            share = getattr(self, name)
            if given is not None and share != type(self).model_fields[name].default:
                found.append(f"{name} {share} has no effect: {part} is {given}; null holds out training pairs")
        if sum(self.held_out.values()) >= 1:
            found.append(f"val_share {self.val_share} and test_share {self.test_share} leave nothing to train on")
        parts = [part for part in ("train", "val", "test") if getattr(self, part) is not None]
        for i, part in enumerate(parts):
            found += [
                f"{part} and {other} are both {getattr(self, part)}; null holds out training pairs"
                for other in parts[i + 1 :]
                if getattr(self, part) == getattr(self, other)
            ]
        return found


class LinePairsConfig(_OwnPairs):
    """Two text files a part, line by line translations of each other: ``<folder>/<part>.<language>``."""

    kind: Literal["files"] = "files"
    """where the pairs are: files (line by line), csv and parquet (a column a language) or hub (the datasets library)"""
    folder: Path
    """files: where they are"""
    train: str = Field("train", min_length=1)
    """training pairs; files: a name without its end, which is the language; csv, parquet: a path"""
    val: str | None = Field("val", min_length=1)
    """validation pairs, likewise; null holds out val_share of the training pairs"""
    test: str | None = Field("test", min_length=1)
    """test pairs, likewise; null holds out test_share of the training pairs"""

    @property
    def slug(self) -> str:
        """A short name for folders and files."""
        return as_name(self.folder.name)


class _TablePairsConfig(_OwnPairs):
    """Tables with a column a language, which has the language's name."""

    train: Path
    """training pairs; files: a name without its end, which is the language; csv, parquet: a path"""
    val: Path | None = None
    """validation pairs, likewise; null holds out val_share of the training pairs"""
    test: Path | None = None
    """test pairs, likewise; null holds out test_share of the training pairs"""

    @property
    def slug(self) -> str:
        """A short name for folders and files."""
        return as_name(self.train.stem)


class CsvPairsConfig(_TablePairsConfig):
    """CSV files in UTF-8 with a header."""

    kind: Literal["csv"] = "csv"
    """where the pairs are: files (line by line), csv and parquet (a column a language) or hub (the datasets library)"""


class ParquetPairsConfig(_TablePairsConfig):
    """Parquet files."""

    kind: Literal["parquet"] = "parquet"
    """where the pairs are: files (line by line), csv and parquet (a column a language) or hub (the datasets library)"""


class HubPairsConfig(Strict):
    """Pairs of the Hugging Face hub, with its splits train, validation and test."""

    kind: Literal["hub"] = "hub"
    """where the pairs are: files (line by line), csv and parquet (a column a language) or hub (the datasets library)"""
    name: str = Field("wmt/wmt14", min_length=1)
    """hub: the dataset, whose rows are {translation: {de: ..., en: ...}}, or {de: ..., en: ...}"""
    subset: str | None = Field("de-en", min_length=1)
    """hub: its configuration; null: it has none"""
    revision: str | None = Field(None, min_length=1)
    """hub: its commit, branch or tag; null: of wmt/wmt14 the commit of 3 April 2024, of others the newest"""

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
    """Byte-level byte-pair encoding (Sennrich et al. 2016; Radford et al. 2019), which spells any sentence exactly."""

    kind: Literal["bpe"] = "bpe"
    """what a token is"""
    vocab_size: int = Field(8000, ge=256, le=2**20)
    """symbols of a language, or of both if joint, learnt from the training pairs; models have one more, that ends
    sentences"""
    joint: bool = True
    """one vocabulary for both languages (Vaswani et al. 2017, section 5.1), as tied embeddings need"""
    paths: tuple[Path, ...] = ()
    """tokenizer.json files to take instead of learning: one if joint, or else the source's and the target's"""

    def mistakes(self) -> list[str]:
        """See Strict."""
        found, needed = [], 1 if self.joint else 2
        if len(self.paths) not in (0, needed):
            found.append(f"paths must be {needed} for joint: {str(self.joint).lower()} (got {len(self.paths)})")
        if self.paths and self.vocab_size != type(self).model_fields["vocab_size"].default:
            found.append(f"vocab_size {self.vocab_size} has no effect: the tokens are those of paths")
        return found


class PairsConfig(Strict):
    """Sentences and their translations, as tokens."""

    corpus: CorpusConfig
    """the pairs, by kind"""
    source_language: str = Field("en", min_length=1)
    """what is translated: the end of its files, its column or its key"""
    target_language: str = Field("de", min_length=1)
    """what it is translated into, likewise"""
    max_length: int = Field(128, ge=2)
    """tokens of a sentence with the symbol that ends it; pairs with a longer side are left out, and counted"""
    tokenizer: PairTokenizerConfig = PairTokenizerConfig()
    """the tokens"""
    root: Path = Path("data")
    """folder of downloads, converted pairs and token files"""

    @field_validator("source_language", "target_language", mode="before")
    @classmethod
    def _norwegian(cls, value: Any) -> Any:
        return "no" if value is False else value  # as which YAML 1.1 reads it

    def mistakes(self) -> list[str]:
        """See Strict."""
        if self.source_language == self.target_language:
            return [f"source_language and target_language are both {self.source_language!r}, must differ"]
        return []
