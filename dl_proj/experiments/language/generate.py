"""lm_generate.py: text from a trained language model, printed as it is generated."""

import sys

from dl_proj.checkpoint_folder import find_checkpoint
from dl_proj.experiments.language.settings import ContinueTextConfig
from dl_proj.experiments.language.text_model import TextGenerator, load_text_model
from dl_proj.settings.errors import ConfigError, complain
from dl_proj.text.encodings import MARK, OtherEncoding, check_utf8


def continue_text(config: ContinueTextConfig) -> None:
    """Print the prompt and its continuation as it is generated; several samples are numbered."""
    generator = _load(config)
    prompt = _prompt(config.prompt)
    if not generator.tokenizer.encode(prompt):
        raise ConfigError("prompt: has no tokens, must have at least one")
    if line := generator.past_window(prompt, config.length):
        complain((f"length: {line}",))
    for number in range(config.samples):
        heading = f"{'' if number == 0 else chr(10)}sample {number + 1}\n" if config.samples > 1 else ""
        print(heading + prompt, end="", flush=True)
        for part in generator.stream(
            prompt,
            config.length,
            seed=config.seed + number,
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
        ):
            print(part, end="", flush=True)
        print()


def _load(config: ContinueTextConfig) -> TextGenerator:
    loaded = load_text_model(find_checkpoint(config.checkpoint), device=config.device)
    if not isinstance(loaded, TextGenerator):
        raise ConfigError(
            f"checkpoint: {config.checkpoint}: a masked model cannot continue text; use one with objective.kind: causal"
        )
    if mistakes := loaded.config.model.moving_chunks("continue text"):
        raise ConfigError(*(f"checkpoint: {config.checkpoint}: {line}" for line in mistakes))
    return loaded


def _prompt(given: str) -> str:
    """Return the prompt; ``-`` reads it from standard input."""
    if given != "-":
        return given.removeprefix(MARK)
    if sys.stdin is None:
        raise ConfigError("prompt: - means standard input, which is closed")
    data = sys.stdin.buffer.read()
    try:
        check_utf8(data)
        text = data.decode().removeprefix(MARK)
    except OtherEncoding as error:
        raise ConfigError(f"prompt: standard input {error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"prompt: standard input is not UTF-8 at byte {error.start}") from None
    if not text:
        raise ConfigError("prompt: standard input is empty, must have at least one token")
    return text
