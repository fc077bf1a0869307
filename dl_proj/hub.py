"""Trained models on the Hugging Face hub, through huggingface_hub's own mixin.

A model's repository there is a checkpoint folder plus a config.json and a model card, so a download works as a
``--checkpoint``.
"""

import json
import shutil
from pathlib import Path
from typing import Any, Self

from huggingface_hub import ModelCard, ModelCardData, ModelHubMixin, snapshot_download
from torch import nn

from dl_proj.checkpoint_folder import CLASSES, TOKENIZER, config_path
from dl_proj.experiments.load import load
from dl_proj.experiments.trained import Trained
from my_custom_ai.custom_train import save_weights
from my_custom_ai.custom_train.checkpoint import count_parameters
from my_custom_ai.custom_train.checksums import SUMS, write_sums
from my_custom_ai.custom_train.names import DeviceName
from my_custom_ai.custom_train.run_directory import read_figures
from my_custom_ai.utils.files import write_text

_FIGURES = "metrics.json"
_FILES = ("config.yaml", "model.safetensors", f"*{TOKENIZER}", CLASSES, _FIGURES, SUMS)
_KINDS = {
    "copy": ("a model of the copy task", "trained.generate(list(range(1, trained.word_length + 1)))"),
    "classification": ("an image classifier", 'trained.predict("picture.png")'),
    "generation": ("a generator of small images", "trained.generate(list(trained.classes))"),
    "language": ("a language model", None),
    "translation": ("a translation model", 'trained.translate("A sentence.")'),
}


class HubModel(nn.Module, ModelHubMixin, library_name="dl-proj", tags=["efficient-attention"]):
    """A trained model with ``save_pretrained``, ``push_to_hub`` and ``from_pretrained``.

    ``HubModel.of("mnist-cls-lsh-r4").push_to_hub("me/mnist-lsh")`` uploads a checkpoint, and
    ``HubModel.from_pretrained("me/mnist-lsh").trained`` is what :func:`dl_proj.load` returns for it. Nothing is ever
    unpickled.

    Args:
        trained: the model, ready for use.
    """

    def __init__(self, trained: Trained[Any, Any]) -> None:
        super().__init__()
        self.trained = trained
        self.model: nn.Module = trained.model
        self._hub_mixin_config = trained.config.model_dump(mode="json")  # becomes config.json

    @classmethod
    def of(cls, checkpoint: str | Path, *, device: DeviceName = "auto") -> Self:
        """Load a checkpoint by name or folder; raises what :func:`dl_proj.load` raises."""
        return cls(load(checkpoint, device=device))

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Call the model."""
        return self.model(*inputs, **named)

    def _save_pretrained(self, save_directory: Path) -> None:
        folder = self.trained.folder
        save_weights(save_directory / "model.safetensors", self.model)
        shutil.copy(config_path(folder), save_directory / "config.yaml")
        if (tokenizer := getattr(self.trained, "tokenizer", None)) is not None:
            tokenizer.save(save_directory / TOKENIZER)
        if (classes := getattr(self.trained, "classes", None)) is not None:
            write_text(save_directory / CLASSES, json.dumps(classes) + "\n")
        summed = ("model.safetensors", TOKENIZER, *(f"{side}_{TOKENIZER}" for side in ("source", "target")), CLASSES)
        write_sums(save_directory, [name for name in summed if (save_directory / name).is_file()])
        if (figures := config_path(folder).with_name(_FIGURES)).is_file():
            shutil.copy(figures, save_directory / _FIGURES)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        device: DeviceName = "auto",
        **others: Any,
    ) -> Self:
        if others:
            raise TypeError(f"from_pretrained takes device besides the hub's own arguments, not {', '.join(others)}")
        folder = Path(model_id)
        if not folder.is_dir():
            downloaded = snapshot_download(
                model_id,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
                allow_patterns=list(_FILES),
            )
            folder = Path(downloaded)
        return cls.of(folder, device=device)

    def generate_model_card(self, *_: Any, **__: Any) -> ModelCard:
        """Return README.md: what the model is, its test figures, how to use it, its training configuration."""
        config = self.trained.config
        data = ModelCardData(library_name="dl-proj", tags=["efficient-attention", config.task])
        what, use = _KINDS[config.task]
        lines = [
            f"# {config.experiment_name}",
            f"{what[0].upper()}{what[1:]} with {config.model.attention_title} attention and "
            f"{count_parameters(self.model):,} parameters, trained with dl-proj.",
            *self._figures_table(),
            "## Use",
            f"```python\nfrom dl_proj.hub import HubModel\n\n{self._usage(use)}\n```",
            "The files are a checkpoint folder: `dl_proj.load` and every script's `--checkpoint` accept it.",
            "## Training configuration",
            f"```yaml\n{config_path(self.trained.folder).read_text(encoding='utf-8').strip()}\n```",
        ]
        return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(lines) + "\n")

    def _usage(self, use: str | None) -> str:
        if use is None:
            causal = hasattr(self.trained, "generate")
            use = 'trained.generate("Once upon a time")' if causal else 'trained.predict("It was [MASK] late.")'
        return f'trained = HubModel.from_pretrained("<this repository>").trained\n{use}'

    def _figures_table(self) -> list[str]:
        path = config_path(self.trained.folder).with_name(_FIGURES)
        if not path.is_file():
            return []
        tested = {name: value for name, value in read_figures(path).items() if name.startswith("test/")}
        rows = [f"| {name} | {value:.6g} |" for name, value in tested.items() if isinstance(value, int | float)]
        return ["\n".join(["| figure | value |", "|---|---|", *rows])] if rows else []
