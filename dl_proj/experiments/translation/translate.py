"""translate.py: sentences in, translations out, one a line."""

import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from tqdm import tqdm

from dl_proj.checkpoint_folder import find_checkpoint, read_config
from dl_proj.experiments.translation.data import padded
from dl_proj.experiments.translation.objective import longest_targets
from dl_proj.experiments.translation.sentences import PairTokenizers
from dl_proj.experiments.translation.settings import TranslateConfig, TranslatingConfig, TranslationTrainConfig
from dl_proj.experiments.translation.train import build_configured, saved_beside
from dl_proj.models.beam_search import beam_search
from dl_proj.models.translation import EncoderDecoderModel
from dl_proj.settings.errors import ConfigError
from dl_proj.settings.help import Nested
from dl_proj.settings.load import complain
from dl_proj.text.encodings import MARK, OtherEncoding, check_utf8
from my_custom_ai.custom_train import load_weights, start


@dataclass(frozen=True)
class Translation:
    """Of one sentence, which was ``cut`` if it was longer than the model's sources."""

    text: str
    log_probability: float
    n_tokens: int  # with the end
    n_source_tokens: int  # with the end, before it was cut
    cut: bool


@dataclass(frozen=True)
class Translator:
    """A trained model and its tokens, with the settings of the search."""

    model: EncoderDecoderModel
    tokenizers: PairTokenizers
    max_length: int  # of the model's sources, with their end
    config: TranslatingConfig
    device: torch.device

    def translate(self, sentences: Sequence[str], *, progress: bool = False) -> list[Translation]:
        """Each sentence's translation, in their order; that of an empty sentence is empty.

        A sentence with more tokens than the model takes is translated up to there.
        """
        sources = self.tokenizers.source.encode(list(sentences))
        found: list[Translation] = [Translation("", 0.0, 0, 0, False)] * len(sentences)
        order = sorted((i for i, text in enumerate(sentences) if text.strip()), key=lambda i: len(sources[i]))
        with tqdm(total=len(order), unit="sentence", desc="translating", disable=not progress) as bar:
            for first in range(0, len(order), self.config.batch_size):
                numbers = order[first : first + self.config.batch_size]
                for i, translation in zip(numbers, self._batch([sources[i] for i in numbers]), strict=True):
                    found[i] = translation
                bar.update(len(numbers))
        return found

    def _batch(self, sources: list[list[int]]) -> Iterator[Translation]:
        end, most = self.tokenizers.source.boundary, self.max_length
        taken = [torch.tensor([*source[: most - 1], end]) for source in sources]
        tokens, mask = (part.to(self.device) for part in padded(taken, end))
        hypotheses = beam_search(
            self.model,
            tokens,
            mask,
            boundary=self.tokenizers.target.boundary,
            max_len=longest_targets(mask, self.config.max_length or most),
            beam_size=self.config.beam_size,
            length_penalty=self.config.length_penalty,
        )
        for source, hypothesis in zip(sources, hypotheses, strict=True):
            yield Translation(
                text=self.tokenizers.target.decode(hypothesis.tokens),
                log_probability=hypothesis.log_probability,
                n_tokens=len(hypothesis.tokens) + 1,
                n_source_tokens=len(source) + 1,
                cut=len(source) >= most,
            )


def load_translator(config: TranslatingConfig, data: Nested | None = None) -> tuple[Translator, TranslationTrainConfig]:
    """The trained model that ``config`` names, and the configuration that it was trained with, with other ``data``."""
    folder = find_checkpoint(config.checkpoint)
    trained = read_config(TranslationTrainConfig, folder, data)
    longest = trained.data.max_length
    if config.max_length is not None and config.max_length > longest:
        raise ConfigError(f"max_length: {config.max_length} is more than the {longest} tokens that the model knows")
    tokenizers = saved_beside(trained, folder)
    accelerator = start(config.device)
    model = build_configured(trained, tokenizers)
    load_weights(folder / "model.safetensors", model)
    translator = Translator(model.to(accelerator.device).eval(), tokenizers, longest, config, accelerator.device)
    return translator, trained


def translate_sentences(config: TranslateConfig, sentences: list[str]) -> None:
    """Print a line for each sentence, or for each line of standard input, as soon as its batch is done."""
    if not sentences and sys.stdin is None:
        raise ConfigError("standard input is closed, and there are no sentences among the arguments")
    translator, _ = load_translator(config)
    lines = _checked(sentences) if sentences else _standard_input()
    at_once = 1 if not sentences and sys.stdin.isatty() else config.batch_size  # who types waits for an answer
    number = 0
    while batch := list(itertools.islice(lines, at_once)):
        for translation in translator.translate(batch):
            number += 1
            print(translation.text.replace("\n", " "), flush=True)  # a line each, whatever the model knows
            if translation.cut:
                complain((_cut(number, translation, translator.max_length),))


def _cut(number: int, translation: Translation, most: int) -> str:
    return (
        f"sentence {number}: of its {translation.n_source_tokens - 1} tokens the first {most - 1} were translated, "
        "which is as many as the model takes"
    )


def _checked(sentences: list[str]) -> Iterator[str]:
    for number, sentence in enumerate(sentences, 1):
        if any("\ud800" <= character <= "\udfff" for character in sentence):  # by which python keeps other bytes
            raise ConfigError(f"sentence {number} is not UTF-8 (got {sentence!r})")
        yield sentence.removeprefix(MARK)


def _standard_input() -> Iterator[str]:
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            if number == 1:
                check_utf8(line)
            text = line.decode()
        except OtherEncoding as error:
            raise ConfigError(f"standard input {error}") from None
        except UnicodeDecodeError as error:
            raise ConfigError(f"standard input: line {number} is not UTF-8 at byte {error.start}") from None
        if number == 1:
            text = text.removeprefix(MARK)
        yield text.removesuffix("\r\n").removesuffix("\n")
