"""lm_generate.py: text from a trained language model, shown while it is drawn."""

import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from dl_proj.checkpoint_folder import TOKENIZER, find_checkpoint, read_config
from dl_proj.configs.attention import LSHConfig
from dl_proj.configs.language import ContinueTextConfig, LanguageTrainConfig
from dl_proj.configs.load import ConfigError
from dl_proj.data.tokenizers import Tokenizer, load_tokenizer
from dl_proj.models.generation import AutoregressiveModel
from dl_proj.models.sampling import sampler
from dl_proj.tasks.language_training import build_configured
from my_custom_ai.custom_train import load_weights, start


def continue_text(config: ContinueTextConfig) -> None:
    """Print the prompt and what the model adds, as it comes; before each of several samples a line with its number."""
    folder = find_checkpoint(config.checkpoint)
    trained = read_config(LanguageTrainConfig, folder)
    if mistakes := _cannot_continue(trained):
        raise ConfigError(*(f"checkpoint: {config.checkpoint}: {line}" for line in mistakes))
    tokenizer = load_tokenizer(trained.data.tokenizer, folder / TOKENIZER)
    text = _prompt(config.prompt)
    prompt = tokenizer.encode(text)
    _check_length(len(prompt), config.length, trained.data.window)
    accelerator = start(config.device)
    model = build_configured(trained, tokenizer)
    load_weights(folder / "model.safetensors", model)
    model.to(accelerator.device).eval()
    given = torch.tensor(prompt, device=accelerator.device)
    for number in range(config.samples):
        heading = f"{'' if number == 0 else chr(10)}sample {number + 1}\n" if config.samples > 1 else ""
        print(heading + text, end="", flush=True)
        for part in continuation(model, tokenizer, given, trained.data.window, config, number):
            print(part, end="", flush=True)
        print()


def continuation(
    model: AutoregressiveModel,
    tokenizer: Tokenizer,
    prompt: torch.Tensor,
    window: int,
    config: ContinueTextConfig,
    number: int,
) -> Iterator[str]:
    """The text that is added, in whole characters as soon as they are drawn.

    Args:
        model: on the prompt's device, in eval mode.
        tokenizer: the model's.
        prompt: (n,) int64 tokens.
        window: tokens of the sequences that the model was trained on.
        config: how much, and how it is drawn.
        number: of the sample; it depends on this and the seed alone.
    """
    generator = torch.Generator().manual_seed(config.seed + number)
    uniform = torch.rand(1, config.length, dtype=torch.float64, generator=generator).to(prompt.device)
    choose = sampler(uniform, temperature=config.temperature, top_k=config.top_k, top_p=config.top_p)
    new = model.stream(prompt.unsqueeze(0), config.length, choose=choose, max_len=window)
    return tokenizer.decode_stream(token.item() for token in new)
