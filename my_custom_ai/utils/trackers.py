"""The history of a run: metrics.csv, and curves for TensorBoard and Weights & Biases."""

import csv
import io
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from my_custom_ai.utils.files import write_text

Row = dict[str, str]


class MetricsFile:
    """Rows of named numbers, in a CSV file that grows.

    Rows are appended in one piece, so that a long history costs no more than a short one, neither time nor memory. A
    new column, and the first write of a run that goes on, put a whole new file in the old one's place. A kill in the
    middle of an append may leave part of a row at the end, which is of a step after the saved state: reading leaves
    it out.

    Args:
        path: of the CSV file. What it already holds is read, up to ``last_step``: a resumed run repeats later steps.
        last_step: of the checkpoint that the run continues from; None starts anew.
    """

    def __init__(self, path: Path, last_step: int | None = None) -> None:
        self.path = path
        self._columns: list[str] = []  # that the file has; none before the first write
        self._new: list[Row] = []  # not yet written
        if last_step is not None and path.exists():
            self._new = [row for row in _read(path) if int(row["step"]) <= last_step]

    @property
    def rows(self) -> list[Row]:
        """All of them; what was written is read from the file."""
        return [*(_read(self.path) if self._columns else ()), *self._new]

    def add(self, step: int, values: dict[str, float]) -> None:
        """Add one row; columns that it lacks stay empty."""
        self._new.append({"step": str(step)} | {name: f"{value:.8g}" for name, value in values.items()})

    def write(self) -> None:
        """Write what is not yet written.

        Raises:
            OSError: it cannot be written, or the file is gone. The file holds what it held before.
        """
        columns = list(dict.fromkeys([*self._columns, *(name for row in self._new for name in row)])) or ["step"]
        if columns == self._columns:
            self._append(_csv(columns, self._new))
        else:
            write_text(self.path, _csv(columns, [{name: name for name in columns}, *self.rows]))
        self._columns, self._new = columns, []

    def _append(self, text: str) -> None:
        with self.path.open("rb+", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            try:
                left = memoryview(text.encode())
                while left:  # all at once, but for a disk that is full
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except OSError as error:
                file.truncate(end)
                raise OSError(error.errno, error.strerror, str(self.path)) from error


def _read(path: Path) -> list[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(line for line in file if line.endswith("\n")))


def _csv(columns: list[str], rows: Iterable[Row]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, columns, restval="", lineterminator="\n").writerows(rows)
    return text.getvalue()


class _Events:
    """A file of TensorBoard's, opened for each row.

    torch's SummaryWriter has a thread, which ends with a traceback when the disk is full.
    """

    def __init__(self, folder: Path, purge_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import SessionLog  # takes time, which only those pay who want it

        folder.mkdir(parents=True, exist_ok=True)
        now = time.time_ns()  # TensorBoard reads files in the order of their names
        self.path = folder / f"events.out.tfevents.{now // 10**9:010}.{now}.{os.getpid()}"
        self._write("xb", file_version="brain.Event:2")
        self._write("ab", step=purge_step, session_log=SessionLog(status=SessionLog.START))

    def add(self, step: int, values: dict[str, float]) -> None:
        """Append one row."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write("ab", step=step, summary=Summary(value=scalars))

    def _write(self, mode: Literal["xb", "ab"], **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        with self.path.open(mode, buffering=0) as file:
            RecordWriter(file).write(Event(wall_time=time.time(), **content).SerializeToString())


class Curves:
    """Passes named numbers on to the trackers of one run. If TensorBoard's file fails, a line says so, once.

    Args:
        names: "tensorboard" (events in the run's folder ``tensorboard``), "wandb" (a run ``path``'s name in a project
            of its parent's).
        path: the run's folder.
        last_step: of the checkpoint that the run continues from; TensorBoard then forgets later events.
    """

    def __init__(self, names: tuple[str, ...], path: Path, last_step: int) -> None:
        self._events: _Events | None = None
        self._wandb = None
        if "tensorboard" in names:
            try:
                self._events = _Events(path / "tensorboard", purge_step=last_step + 1)
            except OSError as error:
                _warn(path / "tensorboard", error)
        if "wandb" in names:
            import wandb  # an optional extra

            self._wandb = wandb.init(project=path.parent.name, name=path.name, dir=path)

    def add(self, step: int, values: dict[str, float]) -> None:
        """Pass on one row."""
        if self._events:
            try:
                self._events.add(step, values)
            except OSError as error:
                _warn(self._events.path, error)
                self._events = None
        if self._wandb:
            self._wandb.log(values, step=step)

    def close(self) -> None:
        """Write what is left."""
        if self._wandb:
            self._wandb.finish()


def _warn(path: Path, error: OSError) -> None:
    reason = (error.strerror or str(error)).lower()
    tqdm.write(f"warning: {path} cannot be written ({reason}); training goes on without TensorBoard", file=sys.stderr)
