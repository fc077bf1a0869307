"""Translation baselines without a model, and published figures of small models."""

from dataclasses import dataclass

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from dl_proj.experiments.translation.data_settings import LinePairsConfig, PairsConfig
from dl_proj.experiments.translation.evaluate import corpus_scores
from dl_proj.experiments.translation.pair_sets import raw_pairs
from dl_proj.experiments.translation.settings import TranslationTrainConfig
from dl_proj.settings.errors import ConfigError
from dl_proj.tables import Row

_BATCH = 500  # sources whose similarities to all training sources are held at once


@dataclass(frozen=True)
class Published:
    """A published figure.

    Args:
        model: the model.
        bleu: its BLEU as published.
        source: the publication.
        differs: how its training and scoring differ from ours.
    """

    model: str
    bleu: float
    source: str
    differs: str


PUBLISHED = (
    Published(
        "Transformer-tiny, text alone",
        41.02,
        "Wu et al. 2021, Good for Misconceived Reasons, the authors' "
        "https://github.com/LividWo/Revisit-MMT/blob/master/README-baseline.md",
        "tokenised by the authors, BLEU on those tokens as fairseq counts it (12,103 in the reference); beams of 5, "
        "mean of the last 10 checkpoints; up to 8,000 updates of up to 4,096 tokens on each of two GPUs, dropout 0.3",
    ),
)
"""Figures for Multi30k, English to German, test_2016_flickr."""


def translation_baselines(config: TranslationTrainConfig) -> list[Row]:
    """Return rows for untranslated sources, for the nearest training sentence's translation, and published figures.

    BLEU and chrF are those of :func:`~dl_proj.experiments.translation.evaluate.corpus_scores`, on the whole test set.

    Raises:
        ConfigError: pairs that are missing or cannot be read, or an empty split.
    """
    train, test = (list(raw_pairs(config.data, split, seed=config.seed)) for split in ("train", "test"))
    if not train or not test:
        raise ConfigError(f"data.corpus: there are no {'test' if train else 'training'} pairs")
    sources, references = zip(*test, strict=True)
    hypotheses = {
        "the source, untranslated": list(sources),
        "translation of the nearest training sentence": nearest_translations(train, list(sources)),
    }
    rows: list[Row] = [{"baseline": name} | corpus_scores(texts, references) for name, texts in hypotheses.items()]
    if is_multi30k(config.data):
        rows += [{"baseline": p.model, "BLEU": p.bleu, "source": p.source, "differs": p.differs} for p in PUBLISHED]
    return rows


def is_multi30k(data: PairsConfig) -> bool:
    """Whether the test set is, by its name, that of the published figures."""
    corpus = data.corpus
    if not isinstance(corpus, LinePairsConfig):
        return False
    return (corpus.slug, corpus.test, data.source_language, data.target_language) == (
        "multi30k",
        "test_2016_flickr",
        "en",
        "de",
    )


def nearest_translations(train: list[tuple[str, str]], sources: list[str]) -> list[str]:
    """Return for each source the target of the training pair with the most similar source: a translation memory.

    Similarity is the cosine of tf-idf vectors of words and word pairs (Salton and Buckley 1988); among equals, the
    first is taken.
    """
    vectors = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\S+", sublinear_tf=True)
    try:
        known = vectors.fit_transform([source for source, _ in train])
    except ValueError:  # all sentences are empty
        raise ConfigError("data.corpus: the training sources have no words") from None
    found: list[str] = []
    for first in range(0, len(sources), _BATCH):
        similar = vectors.transform(sources[first : first + _BATCH]) @ known.T
        found += [train[i][1] for i in np.asarray(similar.argmax(axis=1)).ravel()]
    return found
