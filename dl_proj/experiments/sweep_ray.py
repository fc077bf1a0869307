"""A sweep's trainings as tasks of Ray."""

import contextlib
import logging
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch

from dl_proj.experiments.sweep_executors import RaySettings
from dl_proj.experiments.sweep_jobs import PATIENCE, PROJECT, End, end_of, train_logged
from dl_proj.settings.errors import ConfigError
from my_custom_ai.utils.signals import SIGNALS

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # or Ray reports to its makers; read when it is imported

import ray

Work = TypeVar("Work")

_STORE = 80 * 2**20  # bytes of shared memory for a Ray of our own, almost the least: tasks return a number


def run_on_ray(
    train: Callable[[Work], None], waiting: dict[str, Work], settings: RaySettings, log_of: Callable[[str], Path]
) -> Iterator[End]:
    """Call ``train`` on each item in a task of its own, as many at a time as have room.

    Args:
        train: a module-level function, because it is pickled; called again on the same item, it continues.
        waiting: the items by name.
        settings: what each asks for.
        log_of: returns the file for the output of a name's training, on a file system that all machines share.

    Yields:
        The end of each item, as it comes.

    Raises:
        ConfigError: Ray cannot be reached, or has no machine with that many CPUs and GPUs.
    """
    with _connected(settings):
        task: Any = ray.remote(
            num_cpus=settings.cpus,
            num_gpus=settings.gpus,
            max_retries=settings.retries,
            max_calls=1,
            runtime_env={
                "env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, (PROJECT, os.environ.get("PYTHONPATH"))))}
            },
        )(_train_in_task)
        here = Path.cwd()
        running = {task.remote(train, work, here, log_of(name), settings.cpus): name for name, work in waiting.items()}
        try:
            while running:
                (ref,), _ = ray.wait([*running], num_returns=1)
                name = running.pop(ref)
                try:
                    yield end_of(name, ray.get(ref), log_of(name))
                except ray.exceptions.RayError as error:
                    yield End(name, f"{_last_line(error)} (see {log_of(name)})", failed=True)
        finally:
            for ref in running:
                ray.cancel(ref)  # Ctrl-C for the task: it saves and stops
            ray.wait([*running], num_returns=len(running), timeout=PATIENCE) if running else None


@contextlib.contextmanager
def _connected(settings: RaySettings) -> Iterator[None]:
    """Connect to the cluster or start a Ray of this machine; signals are handled as before."""
    own = settings.address is None and not os.environ.get("RAY_ADDRESS")
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    already = ray.is_initialized()
    if not already:
        options = {"include_dashboard": False, "object_store_memory": _STORE} if own else {"address": settings.address}
        try:
            ray.init(log_to_driver=False, logging_level=logging.WARNING, **options)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(f"ray.address: {settings.address}: {str(error).splitlines()[0]}") from None
    for number, handler in handlers.items():
        signal.signal(number, handler)  # Ray has replaced some
    try:
        _check_room(settings)
        yield
    finally:
        if not already:
            ray.shutdown()


def _last_line(error: Exception) -> str:
    """Return the end of a message, which may be a traceback in colours."""
    lines = [re.sub(r"\x1b\[\d*m", "", line).strip() for line in str(error).splitlines()]
    return next((line for line in reversed(lines) if line), type(error).__name__)


def _check_room(settings: RaySettings) -> None:
    """Refuse what no machine has; Ray would wait for one."""
    machines = [machine["Resources"] for machine in ray.nodes() if machine["Alive"]]
    for key, name, wanted in (("ray.cpus", "CPU", settings.cpus), ("ray.gpus", "GPU", settings.gpus)):
        most = max((machine.get(name, 0.0) for machine in machines), default=0.0)
        if wanted > most:
            raise ConfigError(f"{key}: {wanted:g}, must be at most {most:g}, what the largest machine of Ray has")


def _train_in_task(train: Callable[[Work], None], work: Work, folder: Path, log: Path, cpus: float) -> int:
    """Return the exit code of the training, as train_logged does; the process ends with the task (max_calls)."""
    for number in SIGNALS:  # Ray handles some of them; this way the training saves and stops
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    os.chdir(folder)  # relative paths are meant from there
    torch.set_num_threads(max(1, int(cpus)))
    code = train_logged(train, work, log)
    if code - 128 in [*SIGNALS] and code - 128 != signal.SIGINT:
        os._exit(code)  # the machine is going away: Ray then continues the task on another
    return code
