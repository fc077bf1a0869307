import os
import threading
from pathlib import Path

import pytest
from tiny_training import Squares, tiny_trainer


class Watched(Squares):
    """Squared error; keeps what the process holds, every 500 batches."""

    def __init__(self):
        super().__init__()
        self.batches, self.held = 0, []

    def measure(self, model, batch):
        if model.training:
            self.batches += 1
            if self.batches % 500 == 0:
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                files = len(os.listdir("/proc/self/fd"))
                self.held.append((pages * os.sysconf("SC_PAGE_SIZE"), files, threading.active_count()))
        figures = super().measure(model, batch)
        self.trained.clear()
        self.evaluated.clear()
        return figures


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the process's memory from /proc")
def test_3000_steps_hold_no_more_than_500(tmp_path):
    objective = Watched()
    pace = {"total_steps": 3000, "save_every": 20, "eval_every": 50, "trackers": ("tensorboard",)}
    tiny_trainer(tmp_path / "run", objective=objective, **pace).fit()
    memory, files, threads = zip(*objective.held, strict=True)
    assert len(memory) == 6
    assert max(memory[1:]) - memory[0] < 4e6, memory
    assert len(set(files[1:])) == len(set(threads[1:])) == 1, objective.held
