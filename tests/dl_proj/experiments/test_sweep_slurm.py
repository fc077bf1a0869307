"""sweep.py --executor slurm, on a real SLURM of one node that runs as long as these tests."""

import subprocess
import threading
from functools import partial
from pathlib import Path

import pytest
from small_slurm import missing, small_slurm
from tiny_sweeps import BROKEN, LONG, history_of, is_training, rows_of, wait_for, write_sweep

from my_custom_ai.utils.signals import Stopped

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]

OUT = Path("out")
ON_SLURM = ("--config", "sweep.yaml", "--executor", "slurm", "--slurm.poll_seconds", "0.2")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with small_slurm(tmp_path_factory.mktemp("slurm")) as folder:
        yield folder


def job_of(name):
    return (OUT / name / "slurm_job.txt").read_text().strip()


def submissions():
    return [*(OUT / "slurm").glob("*_submission.sh")]


class Meanwhile(threading.Thread):
    """Does something while the sweep waits, whose failure is the test's."""

    def __init__(self, work):
        super().__init__(daemon=True)
        self.work, self.error = work, None

    def run(self):
        try:
            self.work()
        except BaseException as error:
            self.error = error

    def __enter__(self):
        self.start()

    def __exit__(self, kind, *_):
        if kind is not None:
            return
        self.join(60)
        assert self.error is None, self.error
        assert not self.is_alive()


def test_preempted_and_timed_out_jobs_go_on_to_the_table_of_a_local_sweep(script, cluster):
    """One put back by SLURM (SIGTERM), one told of its time limit (SIGUSR1), both in the middle."""
    write_sweep({"preempted": LONG, "timed": LONG | {"model.dim": 24}, "plain": {}, "hashed": {"model.depth": 1}})
    assert script("sweep", "--config", "sweep.yaml", "--output_dir", "local").code == 0

    def disturb(name, *command, step=""):
        wait_for(lambda: is_training(OUT / name / "version_0"))
        subprocess.run([*command, job_of(name) + step], check=True, timeout=60)

    preempt = partial(disturb, "preempted", "scontrol", "requeue")
    warn = partial(disturb, "timed", "scancel", "--signal=USR1", step=".0")  # as slurmctld does
    options = ("--slurm.memory_gb", "0.5", "--slurm.sbatch", '{"comment": "tiny"}')
    with Meanwhile(preempt), Meanwhile(warn):
        outcome = script("sweep", *ON_SLURM, *options)
    assert outcome.code == 0, outcome
    (array,) = submissions()
    asked = {line.removeprefix("#SBATCH --") for line in array.read_text().splitlines()}
    assert {"mem=512MB", "comment=tiny", "time=60", "signal=USR1@120", "requeue", "array=0-3%4"} <= asked
    assert rows_of("out") == rows_of("local")
    for name in ("preempted", "timed"):
        log = (OUT / name / "log.txt").read_text()
        assert ("goes back into the queue" in log) == (name == "timed"), "SLURM itself does it for the other"
        assert [path.name for path in (OUT / name).glob("version_*")] == ["version_0"], "continued, not begun anew"
        assert f"{'SIGTERM' if name == 'preempted' else 'SIGUSR1'}: saved after step" in log
        assert history_of(OUT / name / "version_0") == history_of(Path("local") / name / "version_0")


def test_jobs_outlive_the_sweep_and_only_failures_need_a_flag(script, cluster, monkeypatch):
    """Call by call: interrupted; one job cancelled, one failed; listed; retried."""
    write_sweep({"broken": BROKEN, "cancelled": {"train.max_steps": 10**6}, "plain": {}})

    def interrupt(seconds):
        raise Stopped(15)

    with monkeypatch.context() as patch:
        patch.setattr("dl_proj.experiments.sweep_slurm.time.sleep", interrupt)
        outcome = script("sweep", *ON_SLURM)
    array = job_of("plain").partition("_")[0]
    assert outcome.code == 128 + 15
    assert f"scancel {array} " in outcome.lines[-1]

    def cancel():
        wait_for(lambda: is_training(OUT / "cancelled/version_0"))
        subprocess.run(["scancel", job_of("cancelled")], check=True, timeout=60)

    with Meanwhile(cancel):
        outcome = script("sweep", *ON_SLURM)
    assert outcome.code == 1
    assert len(submissions()) == 1, "waited for, not submitted again"
    assert list(rows_of("out")) == ["plain"]
    assert "goes back" not in (OUT / "cancelled/log.txt").read_text()
    assert outcome.lines[-1].startswith("stopped: broken: exit code 1: the "), "the cancelled one is no failure"
    assert outcome.out.splitlines()[-1] == "not trained yet: broken, cancelled"

    broken = ("--only", "broken")
    outcome = script("sweep", *ON_SLURM, *broken)
    assert (outcome.code, len(submissions())) == (1, 1)
    assert "--retry" in outcome.lines[-1]
    outcome = script("sweep", *ON_SLURM, *broken, "--retry", "true")
    assert (outcome.code, len(submissions())) == (1, 2)
    assert "--retry" not in outcome.lines[-1]


def test_what_sbatch_refuses_is_told_in_a_line(script, cluster):
    write_sweep({"plain": {}, "wide": {"model.dim": 24}})
    outcome = script("sweep", *ON_SLURM, "--slurm.partition", "nowhere")
    assert (outcome.code, len(outcome.lines)) == (2, 1)
    assert outcome.lines[0].startswith("slurm: ") and "partition" in outcome.lines[0]
