"""attention_maps.py: the attention weights of a trained model, as pictures and as arrays."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dl_proj.experiments.copy.copier import Copier
from dl_proj.experiments.copy.dataset import SOS
from dl_proj.experiments.copy.train import recall_dataset
from dl_proj.experiments.images.classification.classifier import Classifier
from dl_proj.experiments.images.data import picture_levels
from dl_proj.experiments.images.generation.generator import Generator
from dl_proj.experiments.language.text_model import GapFiller, TextGenerator
from dl_proj.experiments.load import load
from dl_proj.experiments.recall.recaller import Recaller
from dl_proj.experiments.trained import Trained
from dl_proj.experiments.translation.translator import Translator
from dl_proj.looking.pictures import Side, draw_looks, draw_weights
from dl_proj.looking.settings import AttentionMapsConfig
from dl_proj.models.sampling import check_logits, sampler
from dl_proj.settings.errors import ConfigError
from my_custom_ai.custom_train.errors import NonFinite
from my_custom_ai.utils.files import whole_file
from my_transformers.looking import recorded_weights

_PARTS = {  # by the first part of a layer's name: name of the picture, then queries and keys
    "stack": ("attention", "", ""),
    "encoder": ("attention_encoder", "source", "source"),
    "decoder": ("attention_decoder", "target", "target"),
    "cross": ("attention_cross", "target", "source"),
}


@dataclass(frozen=True)
class _Subject:
    """The inputs of the model, with batch size one, and the names of their tokens."""

    inputs: dict[str, Tensor]
    sides: dict[str, Side] = field(default_factory=dict)  # by "source" and "target", or "" for a single sequence


def draw_attention(config: AttentionMapsConfig) -> None:
    """Run the model on the input; write a picture per kind of attention in it, and attention.npz.

    Raises:
        ConfigError: no such model, or an unsuitable input.
        NonFinite: its logits or attention weights are nan or infinite.
    """
    trained = load(config.checkpoint, device=config.device)
    subject = _subject(trained, config)
    try:
        with recorded_weights(trained.model) as found, torch.no_grad():
            logits = trained.model(**{name: value.to(trained.device) for name, value in subject.inputs.items()})
    except ValueError as error:
        raise ConfigError(f"checkpoint: {config.checkpoint}: {error}") from None
    if not found:
        raise ConfigError(f"checkpoint: {config.checkpoint}: this model has no attention")
    check_logits(logits)
    weights = {name: value[0].float().cpu() for name, value in found.items()}
    if broken := [name for name, value in weights.items() if not value.isfinite().all()]:
        raise NonFinite.given_by_model(f"attention weights in {broken[0]}")
    written = []
    for part, (stem, queries, keys) in _PARTS.items():
        if layers := [value for name, value in weights.items() if _part_of(name) == part]:
            written.append(config.output_dir / f"{stem}.png")
            sides = subject.sides.get(queries, Side()), subject.sides.get(keys, Side())
            draw_weights(layers, *sides, written[-1])
    if isinstance(trained, Classifier) and not trained.config.data.split_channels:
        written.append(config.output_dir / "looks.png")
        draw_looks(list(weights.values()), subject.inputs["images"][0], trained.config, written[-1])
    written.append(config.output_dir / "attention.npz")
    with whole_file(written[-1]) as unfinished, open(unfinished, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **{name: value.numpy() for name, value in weights.items()})
    print("".join(f"written: {path}\n" for path in written), end="")


def _part_of(name: str) -> str:
    return "cross" if name.endswith("cross_attention") else name.split(".")[0]


def _subject(trained: Trained[Any, Any], config: AttentionMapsConfig) -> _Subject:
    if isinstance(trained, Copier | Recaller):
        if config.input is not None:
            task = trained.config.data.task
            raise ConfigError(f"input: a model of the {task} task gets a random sequence; remove input, or set seed")
        if isinstance(trained, Copier):
            return _copy_subject(trained, config.seed)
        return _recall_subject(trained, config.seed)
    if config.input is None:
        raise ConfigError(f"input: required for a model of task {trained.config.task}: {_WANTED[type(trained)]}")
    return _input_subject(trained, config.input, config.seed)


_WANTED: dict[type, str] = {
    Classifier: "a picture file",
    Generator: "the class to draw",
    TextGenerator: "a text",
    GapFiller: "a text",
    Translator: "a sentence",
}


def _copy_subject(trained: Copier, seed: int) -> _Subject:
    generator = torch.Generator().manual_seed(seed)
    word = torch.randint(SOS + 1, trained.config.data.vocab_size, (trained.word_length,), generator=generator)
    sos = torch.tensor([SOS])
    return _Subject({"tokens": torch.cat((sos, word, sos, word[:-1])).unsqueeze(0)})


def _recall_subject(trained: Recaller, seed: int) -> _Subject:
    tokens, _ = recall_dataset(trained.config.data, "test", 1, seed)[0]
    return _Subject({"tokens": tokens.unsqueeze(0)})


def _input_subject(trained: Trained[Any, Any], given: str, seed: int) -> _Subject:
    match trained:
        case Classifier():
            try:
                return _Subject({"images": picture_levels(given, trained.config.data).unsqueeze(0)})
            except ValueError as error:
                raise ConfigError(f"input: {error}") from None
        case Generator():
            return _generator_subject(trained, given, seed)
        case Translator():
            return _translation_subject(trained, given)
    return _text_subject(trained, given)


def _generator_subject(trained: Generator, label: str, seed: int) -> _Subject:
    if label not in trained.classes:
        raise ConfigError(f"input: must be one of {', '.join(trained.classes)} (got {label!r})")
    data = trained.config.data
    labels = torch.tensor([trained.classes.index(label)], device=trained.device)
    uniform = torch.rand(1, data.max_len, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    empty = labels.new_empty(1, 0)
    choose = sampler(uniform.to(trained.device), temperature=1.0, top_k=None, top_p=0.95)
    tokens = trained.model.generate(empty, data.max_len, labels=labels, choose=choose)
    return _Subject({"tokens": tokens[:, :-1], "labels": labels})


def _text_subject(trained: Any, text: str) -> _Subject:
    tokens = trained.tokenizer.encode(text)
    if not 0 < len(tokens) <= trained.config.data.window:
        raise ConfigError(f"input: has {len(tokens)} tokens, must have 1 to {trained.config.data.window}")
    return _Subject({"tokens": torch.tensor([tokens])}, {"": Side(_names(trained.tokenizer, tokens))})


def _translation_subject(trained: Translator, sentence: str) -> _Subject:
    """Return the sentence and the model's translation of it, up to its last token."""
    source, end = trained.tokenizer.source.encode([sentence])[0], trained.tokenizer.source.boundary
    if not 0 < len(source) < trained.max_length:
        raise ConfigError(f"input: has {len(source)} tokens, must have 1 to {trained.max_length - 1}")
    start = trained.tokenizer.target.boundary
    target = trained.tokenizer.target.encode([trained.translate(sentence)[0].text])[0]
    inputs = {"source": torch.tensor([[*source, end]]), "target": torch.tensor([[start, *target]])}
    sides = {
        "source": Side([*_names(trained.tokenizer.source, source), "end"], "token of the source"),
        "target": Side(["start", *_names(trained.tokenizer.target, target)], "token of the translation"),
    }
    return _Subject(inputs, sides)


def _names(tokenizer: Any, tokens: Sequence[int]) -> list[str]:
    return [tokenizer.decode([token]) for token in tokens]
