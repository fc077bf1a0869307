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
    """Rows of named numbers in a growing CSV file.

    Rows are appended, so that writing costs the same time and memory however long the history is. Only a new column,
    and the first write of a resumed run, replace the whole file. A kill during an append may leave an incomplete row at
    the end. It belongs to a step after the saved state, so it is skipped when the file is read.

    Args:
        path: path of the CSV file. If ``last_step`` is given, its rows up to that step are kept: a resumed run repeats
            later steps.
        last_step: step of the checkpoint that the run resumes from; None: a new history.
    """

    def __init__(self, path: Path, last_step: int | None = None) -> None:
        self.path = path
        self._columns: list[str] = []  # columns of the file; empty before the first write
        self._new: list[Row] = []  # rows not yet written
        if last_step is not None and path.exists():
            self._new = [row for row in _read(path) if int(row["step"]) <= last_step]

    @property
    def rows(self) -> list[Row]:
        """All rows; those already written are read from the file."""
        return [*(_read(self.path) if self._columns else ()), *self._new]

    def add(self, step: int, values: dict[str, float]) -> None:
        """Add one row; missing columns stay empty."""
        self._new.append({"step": str(step)} | {name: f"{value:.8g}" for name, value in values.items()})

    def write(self) -> None:
        """Write the new rows.

        Raises:
            OSError: they cannot be written, or the file is gone. The file keeps its previous content.
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
                while left:  # a single write, unless the disk is full
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
    """A TensorBoard event file, opened anew for each row.

    PyTorch's SummaryWriter is not used: it writes in a thread, which dies with a traceback when the disk is full.
    """

    def __init__(self, folder: Path, purge_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import SessionLog  # slow, so imported only if it is used

        folder.mkdir(parents=True, exist_ok=True)
        now = time.time_ns()  # TensorBoard reads event files in the order of their names
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
    """Passes named numbers to the trackers of a run. If the TensorBoard file cannot be written, it warns once.

    Args:
        names: "tensorboard" (events in the subfolder ``tensorboard``), "wandb" (a run named like ``path`` in a project
            named like its parent folder), or both.
        path: the run's folder.
        last_step: step of the checkpoint that the run resumes from; TensorBoard discards later events.
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
        """Pass one row to all trackers."""
        if self._events:
            try:
                self._events.add(step, values)
            except OSError as error:
                _warn(self._events.path, error)
                self._events = None
        if self._wandb:
            self._wandb.log(values, step=step)

    def close(self) -> None:
        """Finish the trackers."""
        if self._wandb:
            self._wandb.finish()


def _warn(path: Path, error: OSError) -> None:
    reason = (error.strerror or str(error)).lower()
    tqdm.write(f"warning: {path} cannot be written ({reason}); training continues without TensorBoard", file=sys.stderr)
