"""Use a trained language model: continue a text, or fill in masked tokens."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from dl_proj.checkpoint_folder import TOKENIZER, read_config
from dl_proj.experiments.language.data import saved_tokenizer
from dl_proj.experiments.language.settings import LanguageTrainConfig
from dl_proj.experiments.language.train import build_configured
from dl_proj.experiments.trained import Trained, ready
from dl_proj.models.generation import AutoregressiveModel
from dl_proj.models.language import LanguageModel
from dl_proj.models.sampling import check_logits, sampler
from dl_proj.settings.help import Nested
from dl_proj.text.tokenizers import Tokenizer
from my_custom_ai.custom_train.names import DeviceName


@dataclass(frozen=True)
class TextGenerator(Trained[LanguageTrainConfig, AutoregressiveModel]):
    """A trained causal language model.

    Args:
        tokenizer: its tokenizer.
    """

    tokenizer: Tokenizer

    def generate(
        self,
        prompt: str,
        length: int = 400,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
    ) -> str:
        """Return the model's continuation of a text; see :meth:`stream`."""
        return "".join(self.stream(prompt, length, seed=seed, temperature=temperature, top_k=top_k, top_p=top_p))

    def stream(
        self,
        prompt: str,
        length: int = 400,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
    ) -> Iterator[str]:
        """Yield the model's continuation of a text, in whole characters as they are generated.

        It may extend past the model's window, see :meth:`past_window`.

        Args:
            prompt: the text, at least one token.
            length: tokens to generate.
            seed: seed of the sampling: the same seed gives the same text.
            temperature: below 1: more probable tokens; above 1: more variety.
            top_k: sample from only the k most probable tokens; 1: always the most probable; None: from all.
            top_p: sample from the smallest set of tokens with at least this probability.

        Raises:
            ValueError: a prompt without tokens, or a mechanism that cannot decode step by step.
        """
        given = torch.tensor([self.tokenizer.encode(prompt)], dtype=torch.int64, device=self.device)
        generator = torch.Generator().manual_seed(seed)
        uniform = torch.rand(1, length, dtype=torch.float64, generator=generator).to(self.device)
        choose = sampler(uniform, temperature=temperature, top_k=top_k, top_p=top_p)
        new = self.model.stream_on(given, length, choose=choose)
        return self.tokenizer.decode_stream(int(token) for token in new)

    def past_window(self, prompt: str, length: int) -> str | None:
        """Return a line on how the window is exceeded by prompt and new tokens; None if it is not."""
        n_prompt, window = len(self.tokenizer.encode(prompt)), self.config.data.window
        if n_prompt + length - 1 <= window:  # the last new token is not fed to the model
            return None
        if self.model.runs_on:
            return (
                f"{n_prompt} + {length} tokens are more than the {window} of a training window: the model continues, "
                "since it has no positions and its attention state does not grow"
            )
        return (
            f"{n_prompt} + {length} tokens are more than the model's window of {window}: the window slides; whenever "
            f"it is full, the model continues from the last {self.model.kept} tokens"
        )


@dataclass(frozen=True)
class GapFiller(Trained[LanguageTrainConfig, LanguageModel]):
    """A trained masked language model.

    Args:
        tokenizer: its tokenizer.
    """

    tokenizer: Tokenizer

    @torch.no_grad()
    def predict(self, text: str, *, top: int = 5) -> list[dict[str, float]]:
        """Return the probabilities of tokens at each ``[MASK]`` of a text, most probable first.

        Args:
            text: a text with at least one ``[MASK]``, each for one token.
            top: number of tokens to return per mask.

        Raises:
            ValueError: no mask, or more tokens than the model's window.
            NonFinite: see :func:`~dl_proj.models.sampling.check_logits`.
        """
        first, *others = text.split("[MASK]")
        if not others:
            raise ValueError("the text must contain a [MASK] for the model to fill in")
        tokens = self.tokenizer.encode(first)
        for part in others:
            tokens += [self.tokenizer.mask_token, *self.tokenizer.encode(part)]
        if len(tokens) > self.config.data.window:
            raise ValueError(f"the text has {len(tokens)} tokens, must have at most {self.config.data.window}")
        given = torch.tensor([tokens], device=self.device)
        logits = self.model(given, at=given == self.tokenizer.mask_token)
        check_logits(logits)
        best = logits[:, : self.tokenizer.n_symbols].softmax(-1).topk(min(top, self.tokenizer.n_symbols))
        return [
            {self.tokenizer.decode([token]): share for token, share in zip(*row, strict=True)}
            for row in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]


def load_text_model(
    folder: Path, *, device: DeviceName = "auto", data: Nested | None = None
) -> TextGenerator | GapFiller:
    """Load the language model in a checkpoint's folder; see :func:`dl_proj.load`."""
    config = read_config(LanguageTrainConfig, folder, data)
    tokenizer = saved_tokenizer(config.data.tokenizer, folder / TOKENIZER)
    model, where = ready(build_configured(config, tokenizer), folder, device)
    if isinstance(model, AutoregressiveModel):
        return TextGenerator(folder, config, model, where, tokenizer)
    return GapFiller(folder, config, model, where, tokenizer)
