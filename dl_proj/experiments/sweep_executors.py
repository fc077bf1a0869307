"""Schemas of the sections ``slurm`` and ``ray`` of sweep.py: what each training asks of a cluster."""

import re
from typing import Annotated, Any

from pydantic import Field

from dl_proj.settings.base import Strict

_OPTION = re.compile(r"[a-z][a-z0-9-]*")
_OURS = {  # options of sbatch that follow from the other settings, or on which the jobs rely
    "partition": "slurm.partition",
    "time": "slurm.minutes",
    "cpus-per-task": "slurm.cpus",
    "gpus-per-node": "slurm.gpus",
    "mem": "slurm.memory_gb",
    **dict.fromkeys(("array", "error", "nodes", "ntasks-per-node", "open-mode", "output", "requeue", "signal"), ""),
}


class SlurmSettings(Strict):
    """What a training asks of SLURM; read with executor slurm."""

    partition: str | None = None
    """partition of the jobs; null: the cluster's default"""
    minutes: int = Field(60, ge=1)
    """time limit of a job; a training that needs longer is saved, put back into the queue and continued there"""
    grace_seconds: int = Field(120, ge=1)
    """how long before the limit a job is told to save; must be enough to finish an update or an evaluation and save"""
    cpus: int = Field(1, ge=1)
    """CPU cores of a training, and threads that PyTorch computes with"""
    gpus: int = Field(0, ge=0, le=1)
    """GPUs of a training, which runs in one process"""
    memory_gb: float | None = Field(None, gt=0)
    """memory of a training in GB; null: the cluster's default"""
    parallel: int = Field(256, ge=1)
    """most jobs that run at the same time"""
    requeues: int = Field(100, ge=0)
    """how often a job may go back into the queue, so that one that makes no progress ends"""
    sbatch: dict[str, Any] = {}
    """other options of sbatch without the dashes, as in account=lab or constraint=a100; true for one without a value"""
    setup: tuple[str, ...] = ()
    """shell lines that a job runs first, as in ["module load cuda"]"""
    poll_seconds: float = Field(10, ge=0.1, le=3600)
    """how often the sweep looks at the queue"""

    def mistakes(self) -> list[str]:
        """See Strict."""
        found = []
        if (most := 30 * self.minutes) < self.grace_seconds:  # a job must have begun to listen by then
            limit = f"at most {most}, half of the time limit (minutes {self.minutes})"
            found.append(f"grace_seconds: {self.grace_seconds}, must be {limit}")
        for name, value in self.sbatch.items():
            if not _OPTION.fullmatch(name):
                found.append(f"sbatch: {name!r} must be a long option of sbatch without dashes before it")
            elif name in _OURS:
                found.append(f"sbatch: {name} is set by {_OURS[name] or 'the sweep itself'}")
            elif not isinstance(value, str | int | float) or value is False:
                found.append(f"sbatch: {name} must be a text, a number, or true for an option without a value")
        return found


class RaySettings(Strict):
    """What a training asks of Ray; read with executor ray."""

    address: str | None = None
    """a running cluster, as in auto or ray://HOST:10001; null: the one in RAY_ADDRESS, or a Ray of this machine alone,
    which ends with the sweep"""
    cpus: Annotated[float, Field(gt=0)] = 1.0
    """CPU cores of a training; as many trainings run at the same time as have room"""
    gpus: float = Field(0.0, ge=0, le=1)
    """GPUs of a training; with 0.25, four trainings share one, whose memory must be enough for all of them"""
    retries: int = Field(3, ge=0)
    """how often a training is continued whose process died or whose machine was lost"""
