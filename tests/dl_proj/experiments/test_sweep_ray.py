"""sweep.py --executor ray, on a real Ray of this machine."""

import os
import signal
import threading
from pathlib import Path

import pytest
from tiny_scripts import assert_refused
from tiny_sweeps import LONG, history_of, is_training, rows_of, wait_for, write_sweep

ray = pytest.importorskip("ray", reason="ray is not installed")
pytestmark = pytest.mark.slow

ON_RAY = ("--config", "sweep.yaml", "--executor", "ray")


def test_a_task_whose_process_dies_goes_on_to_the_table_of_a_local_sweep(script, monkeypatch):
    """Two at a time share the only CPU; one of them is killed."""
    monkeypatch.setenv("RAY_worker_niceness", "0")  # or other tests take all the time there is
    write_sweep({"killed": LONG, "wide": {"model.dim": 24}})
    assert script("sweep", "--config", "sweep.yaml", "--output_dir", "local").code == 0
    run = Path("out/killed/version_0").absolute()
    killed = []

    def kill():
        wait_for(lambda: is_training(run), seconds=300)
        killed.append(int((run / ".pid").read_text()))
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=80 * 2**20)
    try:
        outcome = script("sweep", *ON_RAY, "--ray.cpus", "0.5")
        no_room = script("sweep", *ON_RAY, "--output_dir", "other", "--ray.gpus", "0.5")
    finally:
        ray.shutdown()
    assert outcome.code == 0, outcome
    assert killed, "before it ended"
    assert rows_of("out") == rows_of("local")
    assert history_of(run) == history_of(Path("local/killed/version_0"))
    assert_refused(no_room, [("ray.gpus", 0.5, 0)])
