"""The history of a run: metrics.csv, and curves for TensorBoard and Weights & Biases."""

import csv
import io
from pathlib import Path

from my_custom_ai.utils.files import write_text


class MetricsFile:
    """Rows of named numbers, kept in memory and written whole, so that a kill leaves no half row.

    Args:
        path: of the CSV file. What it already holds is read, up to ``last_step``: a resumed run repeats later steps.
        last_step: of the checkpoint that the run continues from; None starts anew.
    """

    def __init__(self, path: Path, last_step: int | None = None) -> None:
        self.path = path
        self.rows: list[dict[str, str]] = []
        if last_step is not None and path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["step"]) <= last_step]

    def add(self, step: int, values: dict[str, float]) -> None:
        """Add one row; columns that it lacks stay empty."""
        self.rows.append({"step": str(step)} | {name: f"{value:.8g}" for name, value in values.items()})

    def write(self) -> None:
        """Write all rows."""
        text = io.StringIO()
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        writer = csv.DictWriter(text, columns or ["step"], restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.path, text.getvalue())


class Curves:
    """Passes named numbers on to the trackers of one run.

    Args:
        names: "tensorboard" (events in the run's folder ``tensorboard``), "wandb" (a run ``path``'s name in a project
            of its parent's).
        path: the run's folder.
        last_step: of the checkpoint that the run continues from; TensorBoard then forgets later events.
    """

    def __init__(self, names: tuple[str, ...], path: Path, last_step: int) -> None:
        self._events = self._wandb = None
        if "tensorboard" in names:
            from torch.utils.tensorboard import SummaryWriter  # takes a second, which only those pay who want it

            self._events = SummaryWriter(path / "tensorboard", purge_step=last_step + 1)
        if "wandb" in names:
            import wandb  # an optional extra

            self._wandb = wandb.init(project=path.parent.name, name=path.name, dir=path)

    def add(self, step: int, values: dict[str, float]) -> None:
        """Pass on one row."""
        if self._events:
            for name, value in values.items():
                self._events.add_scalar(name, value, step)
        if self._wandb:
            self._wandb.log(values, step=step)

    def close(self) -> None:
        """Write what is left."""
        if self._events:
            self._events.close()
        if self._wandb:
            self._wandb.finish()
