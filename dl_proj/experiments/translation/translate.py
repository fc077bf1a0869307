"""translate.py: sentences in, translations out, one a line."""

import itertools
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from tqdm import tqdm

from dl_proj.checkpoint_folder import find_checkpoint
from dl_proj.experiments.translation.settings import TranslateConfig, TranslatingConfig
from dl_proj.experiments.translation.translator import Translation, Translator, load_translator
from dl_proj.settings.errors import ConfigError, complain, reason
from dl_proj.settings.help import Nested
from dl_proj.text.encodings import MARK, OtherEncoding, check_utf8
from my_custom_ai.utils.files import whole_file


def configured_translator(config: TranslatingConfig, data: Nested | None = None) -> Translator:
    """The trained model that a configuration names, with other ``data``.

    Raises:
        ConfigError: it does not know translations so long.
    """
    translator = load_translator(find_checkpoint(config.checkpoint), device=config.device, data=data)
    if config.max_length is not None and config.max_length > translator.max_length:
        raise ConfigError(
            f"max_length: {config.max_length} is more than the {translator.max_length} tokens that the model knows"
        )
    return translator


def translate_sentences(config: TranslateConfig, sentences: list[str]) -> None:
    """Print a line for each sentence as soon as its batch is done, or write them all to a file."""
    lines = _lines(config, sentences)
    translator = configured_translator(config)
    translated = _translated(translator, lines, config)
    if config.output is None:
        for line in translated:
            print(line, flush=True)
        return
    total = len(lines) if isinstance(lines, list) else None
    with whole_file(config.output) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        for line in tqdm(translated, total=total, unit="sentence", desc="translating", dynamic_ncols=True):
            file.write(f"{line}\n")
    print(f"written: {config.output}")


def _translated(translator: Translator, lines: Iterable[str], config: TranslateConfig) -> Iterator[str]:
    typed = not isinstance(lines, list) and sys.stdin.isatty()
    at_once = 1 if typed else config.batch_size  # who types waits for an answer
    left, number = iter(lines), 0
    while batch := list(itertools.islice(left, at_once)):
        for translation in translator.translate(batch, **config.search):
            number += 1
            yield translation.text.replace("\n", " ")  # a line each, whatever the model knows
            if translation.cut:
                complain((_cut(number, translation, translator.max_length),))


def _lines(config: TranslateConfig, sentences: list[str]) -> list[str] | Iterator[str]:
    """The sentences; those of standard input one by one.

    Raises:
        ConfigError: there are none, or two kinds, or a file that cannot be read.
    """
    if sentences and config.input is not None:
        raise ConfigError(f"input: {config.input} and sentences among the arguments were given: give one of them")
    if sentences:
        _say_which_are_files(sentences)
        return list(_checked(sentences))
    if config.input is None or str(config.input) == "-":
        if sys.stdin is None:
            raise ConfigError("standard input is closed, and there are no sentences among the arguments")
        return _decoded(sys.stdin.buffer, "standard input")
    try:
        with config.input.open("rb") as file:
            return list(_decoded(file, f"input: {config.input}"))
    except OSError as error:
        raise ConfigError(f"input: {config.input}: {reason(error)}") from None


def _say_which_are_files(sentences: list[str]) -> None:
    for number, sentence in enumerate(sentences, 1):
        if _is_file(sentence):
            complain((f"sentence {number}: {sentence} is a file; --input {sentence} translates its lines",))


def _is_file(word: str) -> bool:
    try:
        return Path(word).is_file()
    except (OSError, ValueError):  # longer than a name can be
        return False


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


def _decoded(file: Iterable[bytes], name: str) -> Iterator[str]:
    """Lines without their ends."""
    for number, line in enumerate(file, 1):
        try:
            if number == 1:
                check_utf8(line)
            text = line.decode()
        except OtherEncoding as error:
            raise ConfigError(f"{name} {error}") from None
        except UnicodeDecodeError as error:
            raise ConfigError(f"{name}: line {number} is not UTF-8 at byte {error.start}") from None
        if number == 1:
            text = text.removeprefix(MARK)
        yield text.removesuffix("\r\n").removesuffix("\n")
