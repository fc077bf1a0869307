"""A SLURM of one node, in a temporary folder: munged, slurmctld and slurmd as the user who runs the tests."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
_PATIENCE = 30.0  # seconds for the daemons to answer

_CONF = """
ClusterName=small
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1
MpiDefault=none
ReturnToService=2
KillWait=20
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4096 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=60 State=UP OverSubscribe=NO
"""


def missing() -> str:
    """Why no SLURM can be started here; empty: it can."""
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
    lacking = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    return f"not installed: {', '.join(lacking)} (Debian: slurm-wlm, munge)" if lacking else ""


@contextlib.contextmanager
def small_slurm(folder: Path) -> Iterator[Path]:
    """Start it; inside, its commands are found and talk to it. Ends all of it, with its jobs.

    Raises:
        RuntimeError: it did not start; the message ends in the daemons' logs.
    """
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    conf = folder / "slurm.conf"
    host = socket.gethostname().partition(".")[0]
    conf.write_text(_CONF.format(host=host, user=getpass.getuser(), folder=folder, ports=_free_ports(2)))
    munge = [f"--{name}={folder}/munge.{end}" for name, end in _MUNGE.items()]
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
    with mock.patch.dict(os.environ, {"SLURM_CONF": str(conf), "PATH": path}), contextlib.ExitStack() as stack:
        stack.enter_context(_daemon("munged", "--foreground", "--force", *munge, log=folder / "munged.log"))
        _wait_for(lambda: (folder / "munge.socket").exists(), folder)
        stack.enter_context(_daemon("slurmctld", "-D", log=folder / "slurmctld.out"))
        stack.enter_context(_daemon("slurmd", "-D", log=folder / "slurmd.out"))
        _wait_for(lambda: _printed("sinfo", "--noheader", "--format=%t") == "idle", folder)
        try:
            yield folder
        finally:
            subprocess.run(["scancel", "--signal=KILL", "--full", f"--user={getpass.getuser()}"], check=False)
            subprocess.run(["scancel", f"--user={getpass.getuser()}"], check=False)
            with contextlib.suppress(RuntimeError):
                _wait_for(lambda: not _printed("squeue", "--noheader"), folder)


_MUNGE = {"socket": "socket", "key-file": "key", "pid-file": "pid", "seed-file": "seed", "log-file": "log"}


@contextlib.contextmanager
def _daemon(*command: str, log: Path) -> Iterator[None]:
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _printed(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _wait_for(condition, folder: Path) -> None:
    end = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > end:
            logs = "\n".join(
                f"{path.name}: {path.read_text()[-1500:]}" for path in sorted(folder.glob("*.[lo][ou][gt]"))
            )
            raise RuntimeError(f"the small SLURM does not answer\n{logs}")
        time.sleep(0.1)


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
