"""A signal ends the update or the evaluation in work; what was saved goes on bit for bit."""

import os
import signal

import pytest
from several_processes import on_processes
from tiny_training import Points, Squares, assert_same_file, rows_of, tiny_model, tiny_trainer

from my_custom_ai.custom_train.checkpoint import load_note
from my_custom_ai.custom_train.state import StateFile
from my_custom_ai.utils.signals import Stopped

SETTINGS = {"accumulate": 2, "save_every": 100, "eval_every": 5, "log_every": 3}


class SignalledAt(Squares):
    """Sends this process a signal in the n-th batch, of training or of evaluation."""

    def __init__(self, number, training=None, evaluation=None):
        super().__init__()
        self.number, self.training, self.evaluation = number, training, evaluation

    def measure(self, model, batch):
        ratios = super().measure(model, batch)
        at, seen = (self.training, self.trained) if model.training else (self.evaluation, self.evaluated)
        if len(seen) == at:
            os.kill(os.getpid(), self.number)
        return ratios


def trainer_in(folder, objective=None, **settings):
    return tiny_trainer(folder, model=tiny_model(0.3), objective=objective, **SETTINGS | settings)


@pytest.mark.parametrize(
    ("moment", "step"),
    [({"training": 7}, 4), ({"training": 20}, 10), ({"training": 24}, 12), ({"evaluation": 4}, 10)],
    ids=["in an update", "before an evaluation", "in the last update", "in an evaluation"],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_what_is_in_work_and_the_run_goes_on_the_same(moment, step, number):
    whole = trainer_in("whole")
    whole.fit()
    before = signal.getsignal(number)
    trainer = trainer_in("run", SignalledAt(number, **moment))
    with pytest.raises(Stopped, match=f"saved after step {step} of 12") as caught:
        trainer.fit()
    assert caught.value.number == number
    assert signal.getsignal(number) == before
    assert load_note(trainer.run.last_state)["step"] == step
    again = trainer_in("run")
    again.fit()
    assert_same_file(again.run.last_state, whole.run.last_state)
    assert_same_file(again.run.best_weights, whole.run.best_weights)
    for prefix in ("train", "val"):
        ours, theirs = ([row | {"seconds": ""} for row in rows_of(t.run, prefix)] for t in (again, whole))
        assert ours == theirs


def test_a_state_is_saved_after_so_many_minutes(monkeypatch):
    minutes = iter(range(1000))
    monkeypatch.setattr("my_custom_ai.custom_train.trainer.time.monotonic", lambda: 60.0 * next(minutes))
    saved = []
    save = StateFile.save
    monkeypatch.setattr(StateFile, "save", lambda self, t, note: (saved.append(note["step"]), save(self, t, note)))
    trainer_in("run", eval_every=100, save_minutes=3.5).fit()
    assert saved == [0, 4, 8, 12, 12], "each look at the clock is a minute; one before the evaluation"


def test_a_signal_that_the_caller_handles_is_the_callers():
    heard = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: heard.append(number))
    try:
        trainer = trainer_in("run", SignalledAt(signal.SIGUSR1, training=3))
        trainer.fit()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert heard == [signal.SIGUSR1] and trainer.step == 12


def train_and_be_stopped(folder, moment):
    """On this process; the second one alone has the signal."""
    mine = moment if os.environ["RANK"] == "1" else {}
    settings = {"val_data": Points(7), "eval_batch_size": 1}
    try:
        trainer_in(folder, SignalledAt(signal.SIGTERM, **mine), **settings, batch_size=2).fit()
    except Stopped as stopped:
        return [stopped.number, str(stopped)]
    return "ended"


@pytest.mark.slow
def test_all_processes_stop_after_the_same_update(forkserver):
    """In an update, and the run that goes on in an evaluation."""
    on_processes(2, forkserver, train_and_be_stopped, "whole", {})
    for moment in ({"training": 7}, {"evaluation": 3}):
        seen = on_processes(2, forkserver, train_and_be_stopped, "run", moment)
        assert seen[0] == seen[1] and seen[0][0] == signal.SIGTERM and "saved after step" in seen[0][1]
    assert on_processes(2, forkserver, train_and_be_stopped, "run", {}) == ["ended", "ended"]
    last = "checkpoints/last/state.safetensors"
    assert_same_file(f"run/{last}", f"whole/{last}")
