"""lm_generate.py: text from a trained language model, shown while it is drawn."""

import sys
from collections.abc import Iterator

import torch
from torch import Tensor

from dl_proj.checkpoint_folder import TOKENIZER, find_checkpoint, read_config
from dl_proj.experiments.language.data import saved_tokenizer
from dl_proj.experiments.language.settings import ContinueTextConfig, LanguageTrainConfig
from dl_proj.experiments.language.train import build_configured
from dl_proj.models.generation import AutoregressiveModel
from dl_proj.models.sampling import sampler
from dl_proj.settings.errors import ConfigError
from dl_proj.text.encodings import MARK, OtherEncoding, check_utf8
from dl_proj.text.tokenizers import Tokenizer
from my_custom_ai.custom_train import load_weights, start


def continue_text(config: ContinueTextConfig) -> None:
    """Print the prompt and what the model adds, as it comes; before each of several samples a line with its number."""
    folder = find_checkpoint(config.checkpoint)
    trained = read_config(LanguageTrainConfig, folder)
    if mistakes := _cannot_continue(trained):
        raise ConfigError(*(f"checkpoint: {config.checkpoint}: {line}" for line in mistakes))
    tokenizer = saved_tokenizer(trained.data.tokenizer, folder / TOKENIZER)
    text = _prompt(config.prompt)
    prompt = tokenizer.encode(text)
    _check_length(len(prompt), config.length, trained.data.window)
    accelerator = start(config.device)
    model = build_configured(trained, tokenizer)
    assert isinstance(model, AutoregressiveModel)  # as all that are causal
    load_weights(folder / "model.safetensors", model)
    model.to(accelerator.device).eval()
    given = torch.tensor(prompt, device=accelerator.device)
    for number in range(config.samples):
        heading = f"{'' if number == 0 else chr(10)}sample {number + 1}\n" if config.samples > 1 else ""
        print(heading + text, end="", flush=True)
        for part in continuation(model, tokenizer, given, config, number):
            print(part, end="", flush=True)
        print()


def continuation(
    model: AutoregressiveModel,
    tokenizer: Tokenizer,
    prompt: Tensor,
    config: ContinueTextConfig,
    number: int,
) -> Iterator[str]:
    """The text that is added, in whole characters as soon as they are drawn.

    Args:
        model: on the prompt's device, in eval mode.
        tokenizer: the model's.
        prompt: (n,) int64 tokens.
        config: how much, and how it is drawn.
        number: of the sample; it depends on this and the seed alone.
    """
    generator = torch.Generator().manual_seed(config.seed + number)
    uniform = torch.rand(1, config.length, dtype=torch.float64, generator=generator).to(prompt.device)
    choose = sampler(uniform, temperature=config.temperature, top_k=config.top_k, top_p=config.top_p)
    new = model.stream(prompt.unsqueeze(0), config.length, choose=choose)
    return tokenizer.decode_stream(int(token) for token in new)


def _cannot_continue(trained: LanguageTrainConfig) -> list[str]:
    if not trained.causal:
        return ["a masked model fills in tokens between others and continues nothing; take one with objective: causal"]
    return trained.model.moving_chunks("continue text")


def _prompt(given: str) -> str:
    """The text itself, or what stands on standard input."""
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
        raise ConfigError("prompt: standard input is empty, a model needs one token to start from")
    return text


def _check_length(n_prompt: int, length: int, window: int) -> None:
    """The last token that is drawn goes into the model no more."""
    if n_prompt == 0:
        raise ConfigError("prompt: has no tokens, a model needs one to start from")
    if n_prompt + length > window + 1:
        possible = f"length can be {window + 1 - n_prompt} at most" if n_prompt <= window else "shorten the prompt"
        raise ConfigError(
            f"length: {n_prompt} tokens of the prompt and {length} new ones are more than the {window + 1} of a model "
            f"with data.window {window}; {possible}"
        )
