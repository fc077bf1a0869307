"""Use a trained translation model: sentences in, translations out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from dl_proj.checkpoint_folder import read_config
from dl_proj.experiments.trained import Trained, ready
from dl_proj.experiments.translation.data import padded
from dl_proj.experiments.translation.objective import longest_targets
from dl_proj.experiments.translation.sentences import PairTokenizers
from dl_proj.experiments.translation.settings import TranslationTrainConfig
from dl_proj.experiments.translation.train import build_configured, saved_beside
from dl_proj.models.beam_search import Hypothesis, beam_search
from dl_proj.models.translation import EncoderDecoderModel
from dl_proj.settings.help import Nested
from my_custom_ai.custom_train.names import DeviceName


@dataclass(frozen=True)
class Translation:
    """The translation of one sentence, which was ``cut`` if it was longer than the model's maximum."""

    text: str
    log_probability: float
    n_tokens: int  # including the end
    n_source_tokens: int  # including the end, before cutting
    cut: bool

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Translator(Trained[TranslationTrainConfig, EncoderDecoderModel]):
    """A trained model of sentence pairs.

    Args:
        tokenizer: the tokenizers of source and target.
    """

    tokenizer: PairTokenizers

    @property
    def max_length(self) -> int:
        """Maximum tokens of a source or target, including its end."""
        return self.config.data.max_length

    def translate(
        self,
        sentences: str | Sequence[str],
        *,
        beam_size: int = 4,
        length_penalty: float = 0.6,
        max_length: int | None = None,
        batch_size: int = 64,
        progress: bool = False,
    ) -> list[Translation]:
        """Return the translations in the order of the sentences; that of an empty sentence is empty.

        A sentence with more tokens than the model's maximum is truncated.

        Args:
            sentences: one or several.
            beam_size: hypotheses kept at each step; 1: greedy.
            length_penalty: alpha of Wu et al. (2016), equation 14: larger values prefer longer translations.
            max_length: maximum tokens of a translation, including its end; None: as in training.
            batch_size: sentences translated together.
            progress: show a progress bar.

        Raises:
            ValueError: ``max_length`` exceeds that of the model.
        """
        if max_length is not None and max_length > self.max_length:
            raise ValueError(f"max_length must be at most the model's {self.max_length} (got {max_length})")
        sentences = [sentences] if isinstance(sentences, str) else sentences
        search = partial(
            beam_search, beam_size=beam_size, length_penalty=length_penalty, boundary=self.tokenizer.target.boundary
        )
        sources = self.tokenizer.source.encode(list(sentences))
        found: list[Translation] = [Translation("", 0.0, 0, 0, False)] * len(sentences)
        order = sorted((i for i, text in enumerate(sentences) if text.strip()), key=lambda i: len(sources[i]))
        with tqdm(total=len(order), unit="sentence", desc="translating", disable=not progress) as bar:
            for first in range(0, len(order), batch_size):
                numbers = order[first : first + batch_size]
                batch = self._batch([sources[i] for i in numbers], search, max_length or self.max_length)
                for i, translation in zip(numbers, batch, strict=True):
                    found[i] = translation
                bar.update(len(numbers))
        return found

    def _batch(
        self, sources: list[list[int]], search: "partial[list[Hypothesis]]", max_length: int
    ) -> Iterator[Translation]:
        end, most = self.tokenizer.source.boundary, self.max_length
        truncated = [torch.tensor([*source[: most - 1], end]) for source in sources]
        tokens, mask = (part.to(self.device) for part in padded(truncated, end))
        hypotheses = search(self.model, tokens, mask, max_len=longest_targets(mask, max_length))
        for source, hypothesis in zip(sources, hypotheses, strict=True):
            yield Translation(
                text=self.tokenizer.target.decode(hypothesis.tokens),
                log_probability=hypothesis.log_probability,
                n_tokens=len(hypothesis.tokens) + 1,
                n_source_tokens=len(source) + 1,
                cut=len(source) >= most,
            )


def load_translator(folder: Path, *, device: DeviceName = "auto", data: Nested | None = None) -> Translator:
    """Load the translation model in a checkpoint's folder; see :func:`dl_proj.load`."""
    config = read_config(TranslationTrainConfig, folder, data)
    tokenizer = saved_beside(config, folder)
    return Translator(folder, config, *ready(build_configured(config, tokenizer), folder, device), tokenizer)
