import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from my_custom_ai.utils.signals import SIGNALS, FirstSignal, Stopped, raise_stopped


def test_the_innermost_block_answers_and_all_is_put_back():
    before = [signal.getsignal(number) for number in SIGNALS]
    with FirstSignal(raise_stopped) as outer, FirstSignal() as inner:
        os.kill(os.getpid(), signal.SIGHUP)
        assert inner.number == outer.number == signal.SIGHUP
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with FirstSignal(raise_stopped):
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_answer_may_raise():
    with pytest.raises(Stopped, match="SIGTERM"), FirstSignal(raise_stopped):
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "code"), [({}, -signal.SIGTERM), ({"WORLD_SIZE": "2"}, 0), ({"SLURM_STEP_ID": "0"}, 0)]
)
def test_a_second_signal_ends_at_once_unless_a_launcher_only_says_the_same_again(launcher, code):
    program = """
import os, signal
from my_custom_ai.utils.signals import FirstSignal
with FirstSignal():
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
"""
    own = os.environ | launcher | {"PYTHONPATH": str(Path(__file__).parents[3])}
    assert subprocess.run([sys.executable, "-c", program], env=own, check=False).returncode == code
