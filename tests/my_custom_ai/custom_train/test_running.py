import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import my_custom_ai
from my_custom_ai.custom_train.errors import SetupError
from my_custom_ai.custom_train.running import locked

HOLD = """
import pathlib, sys, time
from my_custom_ai.custom_train.running import locked
with locked(pathlib.Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
def test_second_process_is_refused_and_killed_one_does_not_block(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(Path(my_custom_ai.__file__).parents[1])}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "in\n"
        with pytest.raises(SetupError, match=f"{first.pid}"), locked(tmp_path):
            pass
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    with locked(tmp_path):
        assert (tmp_path / ".pid").read_text() == f"{os.getpid()}\n"
    with locked(tmp_path):
        pass
