"""Schema of import_reformer.py."""

from pathlib import Path

from pydantic import Field

from dl_proj.experiments.language.data_settings import TextDataConfig
from dl_proj.settings.base import Strict


class ImportReformerConfig(Strict):
    """Make a checkpoint of a Reformer that the transformers library saved; its logits are the same."""

    source: str = Field(min_length=1)
    """folder that save_pretrained wrote, with config.json and model.safetensors, or a name on the Hugging Face hub"""
    data: TextDataConfig = TextDataConfig(source="enwik8")
    """a text to measure it on, and what its tokens are: bytes with 256 symbols, or 258 of which the first two stand for
    no byte and are left out; bpe and wordpiece by a tokenizer.json in the folder"""
    output_dir: Path = Path("runs/imported_reformer")
    """the checkpoint's folder"""
