"""The folder of a run: runs/<experiment>/version_N/ with config.yaml, metrics.csv, checkpoints and pictures."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from my_custom_ai.custom_train.errors import CheckpointError
from my_custom_ai.utils.files import write_text


class RunDirectory:
    """Paths of a run's files.

    * ``config.yaml``: resolved settings, and a ``history`` of the settings that were changed when the run was resumed
    * ``metrics.csv``: the history of all figures; ``tensorboard/``: the same as events
    * ``metrics.json``: the final figures
    * ``checkpoints/last/state.safetensors``: everything that resuming needs
    * ``checkpoints/best/``: the best weights, in the layout of a shipped checkpoint
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, runs_dir: Path | str, experiment: str, config: dict[str, Any]) -> "RunDirectory":
        """Create the folder of the next version, and write the resolved configuration into it."""
        parent = Path(runs_dir) / experiment
        parent.mkdir(parents=True, exist_ok=True)
        number = max(_versions(parent), default=-1) + 1
        while True:
            path = parent / f"version_{number}"
            try:
                path.mkdir()
                break
            except FileExistsError:  # another run took this number in the meantime
                number += 1
        run = cls(path)
        write_text(run.config, yaml.safe_dump(config, sort_keys=False))
        return run

    def change_config(self, config: dict[str, Any], step: int, changes: dict[str, list[Any]]) -> None:
        """Write the settings that hold from ``step`` on, and append the changes to the file's ``history``.

        Args:
            config: all settings.
            step: the number of updates done before.
            changes: old and new value of each changed setting, by its dotted key.
        """
        history = yaml.safe_load(self.config.read_text(encoding="utf-8")).get("history", [])
        history.append({"step": step, "changed": changes})
        write_text(self.config, yaml.safe_dump(config | {"history": history}, sort_keys=False))

    @classmethod
    def newest(cls, runs_dir: Path | str, experiment: str) -> "RunDirectory | None":
        """The experiment's version with the highest number, except for folders that a kill left without a config."""
        parent = Path(runs_dir) / experiment
        runs = [cls(parent / f"version_{number}") for number in sorted(_versions(parent))]
        return next((run for run in reversed(runs) if run.config.is_file()), None)

    @property
    def config(self) -> Path:
        """File of the resolved settings."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """File of the history."""
        return self.path / "metrics.csv"

    @property
    def last_state(self) -> Path:
        """File with everything that resuming needs."""
        return self.path / "checkpoints" / "last" / "state.safetensors"

    @property
    def best(self) -> Path:
        """Folder of the best weights."""
        return self.path / "checkpoints" / "best"

    @property
    def best_weights(self) -> Path:
        """File of the best weights."""
        return self.best / "model.safetensors"

    def figures(self) -> dict[str, Any]:
        """The final figures.

        Raises:
            CheckpointError: the file is missing or malformed.
        """
        return read_figures(self.path / "metrics.json")

    def write_figures(self, figures: dict[str, Any]) -> None:
        """Write the final figures to the run's folder and to that of the best weights, which also gets config.yaml."""
        text = json.dumps(figures, indent=2) + "\n"
        write_text(self.path / "metrics.json", text)
        write_text(self.best / "metrics.json", text)
        write_text(self.best / "config.yaml", self.config.read_text(encoding="utf-8"))


def read_figures(path: Path) -> dict[str, Any]:
    """Read a metrics.json.

    Raises:
        CheckpointError: the file is missing or malformed.
    """
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        figures = None
    if not isinstance(figures, dict):
        raise CheckpointError(f"{path}: not the figures of a training")
    return figures


def _versions(parent: Path) -> list[int]:
    names = (re.fullmatch(r"version_(\d+)", path.name) for path in (parent.iterdir() if parent.is_dir() else ()))
    return [int(match[1]) for match in names if match]
