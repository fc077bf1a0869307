"""What a run leaves behind: runs/<experiment>/version_N/ with config.yaml, metrics.csv, checkpoints and pictures."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from my_custom_ai.custom_train.errors import CheckpointError
from my_custom_ai.utils.files import write_text


class RunDirectory:
    """The places of a run's files.

    ``config.yaml`` resolved settings, and the ``history`` of what was changed when the run went on; ``metrics.csv`` the
    figures of every step; ``tensorboard/`` the same as events; ``metrics.json`` the final figures;
    ``checkpoints/last/state.safetensors`` all that resuming needs;
    ``checkpoints/best/`` the best weights in the form of a shipped checkpoint.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, runs_dir: Path | str, experiment: str, config: dict[str, Any]) -> "RunDirectory":
        """Make the next version's folder and write the resolved configuration into it."""
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
        """Write settings that hold from ``step`` on, and add what they change to the ``history`` at the file's end.

        Args:
            config: all settings.
            step: updates done before.
            changes: for each setting that changes, by its dotted key, its old and its new value.
        """
        history = yaml.safe_load(self.config.read_text(encoding="utf-8")).get("history", [])
        history.append({"step": step, "changed": changes})
        write_text(self.config, yaml.safe_dump(config | {"history": history}, sort_keys=False))

    @classmethod
    def newest(cls, runs_dir: Path | str, experiment: str) -> "RunDirectory | None":
        """The experiment's version with the highest number; a kill may have left one that holds nothing yet."""
        parent = Path(runs_dir) / experiment
        runs = [cls(parent / f"version_{number}") for number in sorted(_versions(parent))]
        return next((run for run in reversed(runs) if run.config.is_file()), None)

    @property
    def config(self) -> Path:
        """Resolved settings."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """History."""
        return self.path / "metrics.csv"

    @property
    def last_state(self) -> Path:
        """All that resuming needs."""
        return self.path / "checkpoints" / "last" / "state.safetensors"

    @property
    def best(self) -> Path:
        """Folder of the best weights."""
        return self.path / "checkpoints" / "best"

    @property
    def best_weights(self) -> Path:
        """The best weights."""
        return self.best / "model.safetensors"

    def figures(self) -> dict[str, Any]:
        """The final figures.

        Raises:
            CheckpointError: the file holds something else, or is not there.
        """
        return read_figures(self.path / "metrics.json")

    def write_figures(self, figures: dict[str, Any]) -> None:
        """Write the final figures beside the run's files and beside the best weights, and complete that folder."""
        text = json.dumps(figures, indent=2) + "\n"
        write_text(self.path / "metrics.json", text)
        write_text(self.best / "metrics.json", text)
        write_text(self.best / "config.yaml", self.config.read_text(encoding="utf-8"))


def read_figures(path: Path) -> dict[str, Any]:
    """A metrics.json.

    Raises:
        CheckpointError: it holds something else, or is not there.
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
