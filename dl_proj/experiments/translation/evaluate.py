"""translation_evaluate.py: BLEU, chrF and perplexity of a translation model on a test set."""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from sacrebleu.metrics import BLEU, CHRF
from torch import Tensor

from dl_proj.experiments.translation.data import padded
from dl_proj.experiments.translation.objective import PairObjective
from dl_proj.experiments.translation.pair_sets import raw_pairs
from dl_proj.experiments.translation.settings import TranslationEvaluateConfig, TranslationTrainConfig
from dl_proj.experiments.translation.sources import line_pairs
from dl_proj.experiments.translation.translate import configured_translator
from dl_proj.experiments.translation.translator import Translation, Translator
from dl_proj.settings.errors import ConfigError
from dl_proj.tables import csv_text, markdown
from my_custom_ai.custom_train.errors import NonFinite
from my_custom_ai.custom_train.objective import all_figures
from my_custom_ai.utils.files import write_text
from my_custom_ai.utils.meters import Meter

_SETTINGS = {"checkpoint", "split", "source_file", "reference_file", "beam_size", "length_penalty", "max_length"}


@dataclass(frozen=True)
class Sentences:
    """Source sentences and their reference translations, as in their files."""

    sources: Sequence[str]
    references: Sequence[str]


def score_translations(config: TranslationEvaluateConfig) -> None:
    """Translate and score; print scores and examples, write translations.csv and scores.json.

    Raises:
        ConfigError: data that cannot be read, or an empty test set.
        NonFinite: the model's logits or loss are nan or infinite.
    """
    translator = configured_translator(config, config.data.given)
    test = _test_set(config, translator.config)
    translations = translator.translate(test.sources, **config.search, progress=True)
    scores = corpus_scores([translation.text for translation in translations], test.references, config.bleu_tokenizer)
    scores |= _likelihood(translator, test, config.batch_size) | _lengths(test, translations)
    settings = config.model_dump(mode="json", include=_SETTINGS) | (
        {"data": config.data.given} if config.data.given else {}
    )
    rows = _rows(test, translations, config.bleu_tokenizer)
    for row in rows[: config.examples]:
        print("\n".join(f"{name:>10}: {row[name]}" for name in ("source", "reference", "hypothesis")), end="\n\n")
    print(markdown([{"figure": name, "value": value} for name, value in scores.items()]))
    write_text(config.output_dir / "translations.csv", csv_text(rows, quoted=True))
    write_text(config.output_dir / "scores.json", json.dumps(settings | scores, indent=2) + "\n")
    print(f"written: {config.output_dir / 'translations.csv'}, {config.output_dir / 'scores.json'}")


def corpus_scores(hypotheses: Sequence[str], references: Sequence[str], tokenizer: str = "13a") -> dict[str, object]:
    """Return corpus-level BLEU (Papineni et al. 2002) and chrF (Popovic 2015), by sacrebleu (Post 2018).

    Each comes with sacrebleu's signature, which records how it was computed.
    """
    figures: dict[str, object] = {}
    for name, metric in (("BLEU", BLEU(tokenize=tokenizer)), ("chrF", CHRF())):
        figures[name] = round(metric.corpus_score(list(hypotheses), [list(references)]).score, 4)
        figures[f"{name} signature"] = metric.get_signature().format()
    return figures


def _test_set(config: TranslationEvaluateConfig, trained: TranslationTrainConfig) -> Sentences:
    if config.source_file is None or config.reference_file is None:  # both are set, or neither
        where = f"data.corpus.{config.split}"
        pairs = raw_pairs(trained.data, config.split, seed=trained.seed)
    else:
        where = "source_file, reference_file"
        files = (config.source_file, config.reference_file)
        pairs = line_pairs(where, files, ("source", "reference"), trained.data.root / "pairs")
    if not len(pairs):
        raise ConfigError(f"{where}: there are no sentences to translate")
    return Sentences(*map(list, zip(*pairs, strict=True)))


def _likelihood(translator: Translator, test: Sentences, batch_size: int) -> dict[str, object]:
    """Measure the references; pairs that are too long for the model, or have an empty side, are skipped and counted."""
    objective, meter = PairObjective(translator.tokenizer.target), Meter()
    ends = (translator.tokenizer.source.boundary, translator.tokenizer.target.boundary)
    pairs = _fitting(translator, test, ends)
    n_skipped = len(test.sources) - len(pairs)
    if not pairs:
        return {"perplexity": None, "bits per byte": None, "pairs without a perplexity": n_skipped}
    with torch.no_grad():
        for first in range(0, len(pairs), batch_size):
            sources, targets = zip(*pairs[first : first + batch_size], strict=True)
            batch = (*padded(sources, ends[0]), *padded(targets, ends[1]))
            source, source_mask, target, target_mask = (part.to(translator.device) for part in batch)
            meter.add(objective.measure(translator.model, (source, source_mask, target, target_mask)))
    means = meter.means()
    if not math.isfinite(means["loss"]):
        raise NonFinite.given_by_model("loss")
    figures = all_figures(objective, means)
    return {
        "perplexity": round(figures["perplexity"], 4),
        "bits per byte": round(figures["bits_per_byte"], 4),
        "pairs without a perplexity": n_skipped,
    }


def _fitting(translator: Translator, test: Sentences, ends: tuple[int, int]) -> list[tuple[Tensor, Tensor]]:
    """Return the tokens of the pairs that fit the model, with boundaries, sorted by length."""
    encoded = zip(
        translator.tokenizer.source.encode(test.sources),
        translator.tokenizer.target.encode(test.references),
        test.sources,
        test.references,
        strict=True,
    )
    pairs = [
        (torch.tensor([*source, ends[0]]), torch.tensor([ends[1], *target, ends[1]]))
        for source, target, *texts in encoded
        if all(text.strip() for text in texts) and max(len(source), len(target)) < translator.max_length
    ]
    return sorted(pairs, key=lambda pair: max(map(len, pair)))


def _lengths(test: Sentences, translations: list[Translation]) -> dict[str, object]:
    """Return the mean numbers of words (separated by white space) and tokens, and of sources that were truncated."""

    def words(texts: Sequence[str]) -> float:
        return round(statistics.fmean(len(text.split()) for text in texts), 2)

    return {
        "sentences": len(translations),
        "sources cut": sum(translation.cut for translation in translations),
        "words a source": words(test.sources),
        "words a reference": words(test.references),
        "words a translation": words([translation.text for translation in translations]),
        "tokens a source": round(statistics.fmean(translation.n_source_tokens for translation in translations), 2),
        "tokens a translation": round(statistics.fmean(translation.n_tokens for translation in translations), 2),
    }


def _rows(test: Sentences, translations: list[Translation], tokenizer: str) -> list[dict[str, object]]:
    bleu, chrf = BLEU(tokenize=tokenizer, effective_order=True), CHRF()
    return [
        {
            "source": source,
            "reference": reference,
            "hypothesis": translation.text,
            "BLEU": round(bleu.sentence_score(translation.text, [reference]).score, 2),
            "chrF": round(chrf.sentence_score(translation.text, [reference]).score, 2),
            "log probability": round(translation.log_probability, 4),
            "cut": translation.cut,
        }
        for source, reference, translation in zip(test.sources, test.references, translations, strict=True)
    ]
