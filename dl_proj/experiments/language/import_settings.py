"""Schema of import_reformer.py."""

from pathlib import Path

from pydantic import Field

from dl_proj.experiments.language.data_settings import TextDataConfig
from dl_proj.settings.base import Strict


class ImportReformerConfig(Strict):
    """Convert a Reformer saved by the transformers library to a checkpoint with the same logits."""

    source: str = Field(min_length=1)
    """folder written by save_pretrained, with config.json and model.safetensors; or a name on the Hugging Face hub"""
    data: TextDataConfig = TextDataConfig(source="enwik8")
    """a text to measure it on, and its tokens: bytes with 256 symbols, or 258 of which the first two are not bytes and
    are dropped; bpe and wordpiece with a tokenizer.json in the folder"""
    output_dir: Path = Path("runs/imported_reformer")
    """folder for the checkpoint"""
