"""translate.py: sentences in, translations out, one per line."""

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
    """Load the configured model, with ``data`` overriding its data settings.

    Raises:
        ConfigError: ``max_length`` exceeds that of the model.
    """
    translator = load_translator(find_checkpoint(config.checkpoint), device=config.device, data=data)
    if config.max_length is not None and config.max_length > translator.max_length:
        raise ConfigError(f"max_length: must be at most the model's {translator.max_length} (got {config.max_length})")
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
    interactive = not isinstance(lines, list) and sys.stdin.isatty()
    batch_size = 1 if interactive else config.batch_size
    remaining, number = iter(lines), 0
    while batch := list(itertools.islice(remaining, batch_size)):
        for translation in translator.translate(batch, **config.search):
            number += 1
            yield translation.text.replace("\n", " ")  # keep one line per sentence
            if translation.cut:
                complain((_cut(number, translation, translator.max_length),))


def _lines(config: TranslateConfig, sentences: list[str]) -> list[str] | Iterator[str]:
    """Return the sentences; from standard input, an iterator.

    Raises:
        ConfigError: there are none, or from two sources, or a file cannot be read.
    """
    if sentences and config.input is not None:
        raise ConfigError(f"input: {config.input}: cannot be combined with sentences as arguments")
    if sentences:
        _hint_at_files(sentences)
        return list(_checked(sentences))
    if config.input is None or str(config.input) == "-":
        if sys.stdin is None:
            raise ConfigError("standard input is closed, and there are no sentences as arguments")
        return _decoded(sys.stdin.buffer, "standard input")
    try:
        with config.input.open("rb") as file:
            return list(_decoded(file, f"input: {config.input}"))
    except OSError as error:
        raise ConfigError(f"input: {config.input}: {reason(error)}") from None


def _hint_at_files(sentences: list[str]) -> None:
    for number, sentence in enumerate(sentences, 1):
        if _is_file(sentence):
            complain((f"sentence {number}: {sentence} is a file; to translate its lines, use --input {sentence}",))


def _is_file(word: str) -> bool:
    try:
        return Path(word).is_file()
    except (OSError, ValueError):  # not a valid file name
        return False


def _cut(number: int, translation: Translation, most: int) -> str:
    return (
        f"sentence {number}: truncated to its first {most - 1} of {translation.n_source_tokens - 1} tokens, "
        "the model's maximum"
    )


def _checked(sentences: list[str]) -> Iterator[str]:
    for number, sentence in enumerate(sentences, 1):
        # surrogates stand for bytes that python could not decode
        if any("\ud800" <= character <= "\udfff" for character in sentence):
            raise ConfigError(f"sentence {number} is not UTF-8 (got {sentence!r})")
        yield sentence.removeprefix(MARK)


def _decoded(file: Iterable[bytes], name: str) -> Iterator[str]:
    """Yield decoded lines without their ends."""
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
