"""A sweep's trainings as an array of SLURM jobs, submitted with submitit."""

import contextlib
import io
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import submitit
import torch
from submitit.core.utils import FailedJobError

from dl_proj.experiments.sweep_executors import SlurmSettings
from dl_proj.experiments.sweep_jobs import PROJECT, End, end_of, train_logged
from dl_proj.settings.errors import ConfigError
from my_custom_ai.utils.files import write_text
from my_custom_ai.utils.signals import SIGNALS, FirstSignal, restated

Work = TypeVar("Work")

_LOOKS = 3  # how often a job without a result must be missing in the queue: shared file systems show files late


def run_on_slurm(
    train: Callable[[Work], None],
    waiting: dict[str, Work],
    settings: SlurmSettings,
    folder: Path,
    log_of: Callable[[str], Path],
    *,
    retry: bool,
) -> Iterator[End]:
    """Call ``train`` on each item in a job of its own, and wait for the jobs; an interruption leaves them alone.

    Jobs of an earlier call that are still in the queue are waited for.

    Args:
        train: a module-level function, because it is pickled; called again on the same item, it continues.
        waiting: the items by name.
        settings: what each asks for.
        folder: for submitit's scripts and logs, on a file system that all nodes share.
        log_of: returns the file for the output of a name's training.
        retry: submit anew what failed while no call waited for it, instead of reporting it.

    Yields:
        The end of each item, as it comes.

    Raises:
        ConfigError: SLURM does not answer, or refused the jobs.
    """
    jobs = _Jobs(folder, log_of)
    ended = jobs.found(waiting, retry)
    yield from ended
    if earlier := [job.job_id for job in jobs.by_name.values()]:
        print(f"waiting for jobs of an earlier call: {', '.join(earlier)}", flush=True)
    new = [name for name in waiting if name not in jobs.by_name and name not in {end.name for end in ended}]
    if new:
        submitted = _submitted(
            _executor(folder, settings),
            _TrainingJob(train, settings.cpus, settings.requeues),
            [waiting[name] for name in new],
            [log_of(name) for name in new],
        )
        print(f"submitted: {', '.join(one.job_id for one in submitted)}", flush=True)
        jobs.add(dict(zip(new, submitted, strict=True)))
    try:
        yield from jobs.ends(settings.poll_seconds)
    except KeyboardInterrupt as error:
        left = " ".join(dict.fromkeys(job.job_id.partition("_")[0] for job in jobs.by_name.values()))
        reason = f"{str(error) or 'interrupted'}; the jobs continue, scancel {left} ends them"
        raise restated(error, reason) from None


def _executor(folder: Path, settings: SlurmSettings) -> submitit.SlurmExecutor:
    """Return an executor with the settings as options of sbatch."""
    executor = submitit.SlurmExecutor(folder)
    memory = f"{round(1024 * settings.memory_gb)}MB" if settings.memory_gb else None
    options = {"partition": settings.partition, "mem": memory, "gpus_per_node": settings.gpus or None}
    executor.update_parameters(
        job_name=folder.parent.name,
        time=settings.minutes,
        cpus_per_task=settings.cpus,
        array_parallelism=settings.parallel,
        setup=[f"export PYTHONPATH={shlex.quote(PROJECT)}${{PYTHONPATH:+:$PYTHONPATH}}", *settings.setup],
        srun_args=[f"--cpus-per-task={settings.cpus}"],  # which srun no longer takes from sbatch
        additional_parameters={"requeue": True, "signal": f"USR1@{settings.grace_seconds}"} | settings.sbatch,
        **{name: value for name, value in options.items() if value is not None},
    )
    return executor


def _submitted(
    executor: submitit.SlurmExecutor, job: "_TrainingJob[Work]", works: list[Work], logs: list[Path]
) -> list[submitit.Job[int]]:
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # submitit prints what the error contains
            return executor.map_array(job, works, logs)
    except (FailedJobError, subprocess.CalledProcessError) as error:
        raise ConfigError(f"slurm: sbatch refused the jobs: {_last_line(str(error))}") from None


@dataclass(frozen=True)
class _TrainingJob(Generic[Work]):
    """What a job does: train, and go back into the queue if it has to stop before the training is complete."""

    train: Callable[[Work], None]
    cpus: int
    requeues: int

    def __call__(self, work: Work, log: Path) -> int:
        """Return the exit code of the training, as train_logged does."""
        job = submitit.JobEnvironment()
        job.paths.result_pickle.unlink(missing_ok=True)  # of a time that SLURM itself ended
        for number in (
            *SIGNALS,
            signal.SIGCONT,
        ):  # submitit handles some of them; this way the training saves and stops
            signal.signal(number, signal.SIG_DFL)
        torch.set_num_threads(self.cpus)
        with FirstSignal():  # SLURM may send its signal twice, the second time when the training has saved
            code = train_logged(self.train, work, log)
            if code - 128 in [*SIGNALS]:
                signal.signal(signal.SIGUSR1, signal.SIG_IGN)
                if self._put_back(job.job_id, log):
                    raise SystemExit(code)  # without a result for submitit
        return code

    def _put_back(self, job_id: str, log: Path) -> bool:
        """Requeue this job, unless it was cancelled or SLURM does so itself: then it does not count as running."""
        state = subprocess.run(_squeue("--jobs", job_id, "--format=%T"), capture_output=True, text=True, check=False)
        if state.stdout.strip() != "RUNNING":
            return False
        often = int(os.environ.get("SLURM_RESTART_COUNT", "0")) >= self.requeues
        with log.open("a", encoding="utf-8") as file:  # before, as SLURM then ends this process
            done = f"has gone back into the queue {self.requeues} times (slurm.requeues)"
            file.write(f"job {job_id} {done if often else 'goes back into the queue'}\n")
        if not often:
            subprocess.run(["scontrol", "requeue", job_id], check=True)
        return not often


class _Jobs:
    """The jobs of this sweep that have not been reported; a file beside each log names its job to a later call."""

    def __init__(self, folder: Path, log_of: Callable[[str], Path]) -> None:
        self._folder, self._log_of = folder, log_of
        self.by_name: dict[str, submitit.SlurmJob[int]] = {}

    def add(self, jobs: dict[str, submitit.Job[int]]) -> None:
        """Add submitted jobs."""
        for name, job in jobs.items():
            self.by_name[name] = submitit.SlurmJob(self._folder, job.job_id)
            self._file(name).parent.mkdir(parents=True, exist_ok=True)
            write_text(self._file(name), f"{job.job_id}\n")

    def found(self, names: Iterable[str], retry: bool) -> list[End]:
        """Add those of earlier calls that are still in the queue; returns what failed since, unless to be retried."""
        known = [name for name in names if self._file(name).is_file()]
        if not known:
            return []
        queued = _queued()
        if queued is None:
            raise ConfigError("slurm: squeue does not answer; try again later")
        ended = []
        for name in known:
            self.by_name[name] = submitit.SlurmJob(self._folder, self._file(name).read_text(encoding="utf-8").strip())
            if self.by_name[name].job_id not in queued:
                ended.append(self._report(name))
        return [end for end in ended if end.failed and not retry]

    def ends(self, seconds: float) -> Iterator[End]:
        """Wait for all, with a look at the queue every so many seconds; yields each as it ends."""
        missing: dict[str, int] = {}
        while self.by_name:
            queued = _queued()
            gone = [] if queued is None else [name for name, job in self.by_name.items() if job.job_id not in queued]
            for name in gone:
                missing[name] = missing.get(name, 0) + 1
                if self.by_name[name].paths.result_pickle.is_file() or missing[name] >= _LOOKS:
                    yield self._report(name)
            if self.by_name:
                time.sleep(seconds)

    def _report(self, name: str) -> End:
        """Describe the end of a job that is no longer in the queue, and forget it."""
        job = self.by_name.pop(name)
        self._file(name).unlink(missing_ok=True)
        if not job.paths.result_pickle.is_file():
            reason = "ended without a word (killed, out of memory, cancelled?)"
            return End(name, f"job {job.job_id} {reason}; see {self._log_of(name)} and {job.paths.stderr}", failed=True)
        try:
            return end_of(name, job.result(), self._log_of(name))
        except FailedJobError as error:
            return End(name, f"job {job.job_id}: {_last_line(str(error))} (see {job.paths.stderr})", failed=True)

    def _file(self, name: str) -> Path:
        return self._log_of(name).with_name("slurm_job.txt")


def _queued() -> set[str] | None:
    """Return the ids of this user's jobs in the queue, running or waiting; None if SLURM does not answer."""
    found = subprocess.run(_squeue("--me", "--array", "--format=%i"), capture_output=True, text=True, check=False)
    return {*found.stdout.split()} if found.returncode == 0 else None


def _squeue(*flags: str) -> list[str]:
    return ["squeue", "--noheader", *flags]


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip(" -\t")]
    return lines[-1] if lines else "it printed nothing"
