import itertools
import math

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_training import (
    Killed,
    KilledAt,
    Points,
    Squares,
    assert_same_file,
    assert_same_tensors,
    rows_of,
    sgd,
    tiny_model,
    tiny_trainer,
)
from torch import nn

from my_custom_ai.custom_train import CheckpointError, Monitor, NonFiniteLoss, checkpoint, load_weights
from my_custom_ai.custom_train.checkpoint import load_tensors
from my_custom_ai.custom_train.schedules import one_cycle
from my_custom_ai.utils.meters import Ratio


def weights_of(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def far_apart(a, b):
    return max((a[name] - b[name]).abs().max().item() for name in a)


# -- what an update is --


def test_training_is_the_plain_loop():
    """Against a loop written out, over three epochs, with an optimiser that has a memory."""
    data, objective, model, theirs = Points(12), Squares(), tiny_model().eval(), tiny_model()  # fit() is told no mode
    tiny_trainer(
        "run", model=model, objective=objective, optimizer=lambda m: sgd(m, momentum=0.9), train_data=data
    ).fit()
    optimizer = sgd(theirs, momentum=0.9)
    for update, numbers in enumerate(objective.trained):
        x = data.x[numbers] + 0.1 * (update // 4)  # four updates an epoch
        optimizer.zero_grad()
        (theirs(x).squeeze(-1) - data.y[numbers]).square().mean().backward()
        optimizer.step()
    assert len(objective.trained) == 12
    assert far_apart(weights_of(model), weights_of(theirs)) < 1e-6


def test_accumulating_equals_one_large_batch():
    results = []
    for batch_size, accumulate in ((12, 1), (3, 4), (1, 12)):
        model = tiny_model()
        tiny_trainer(
            "run" + str(accumulate),
            model=model,
            optimizer=lambda m: sgd(m, momentum=0.9),
            train_data=Points(12),  # one update sees all of them, in whatever order
            batch_size=batch_size,
            accumulate=accumulate,
        ).fit()
        results.append(weights_of(model))
    assert far_apart(results[0], results[1]) < 1e-6
    assert far_apart(results[0], results[2]) < 1e-6
    assert far_apart(results[0], weights_of(tiny_model())) > 0.1


@pytest.mark.parametrize(("clip_norm", "clipped"), [(0.01, True), (1e3, False), (0.0, False)])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_clipping_limits_the_whole_gradient_and_keeps_its_direction(clip_norm, clipped, accumulate):
    moves = []
    for limit in (clip_norm, 0.0):
        model = tiny_model()
        before = weights_of(model)
        tiny_trainer(
            f"run{limit}",
            model=model,
            optimizer=lambda m: sgd(m, lr=1.0),
            clip_norm=limit,
            total_steps=1,
            accumulate=accumulate,
        ).fit()
        moves.append(torch.cat([(value - before[name]).flatten() for name, value in weights_of(model).items()]))
    move, free = moves
    assert free.norm() > 0.02
    assert move.norm().item() == pytest.approx(clip_norm if clipped else free.norm().item(), rel=1e-3)
    assert torch.cosine_similarity(move, free, dim=0) > 0.9999


def test_the_rate_follows_the_schedule_in_each_group_also_after_a_kill():
    schedule, seen = one_cycle(9), []

    def two_rates(model):
        optimizer = torch.optim.SGD(
            [{"params": [model[0].weight], "lr": 0.1}, {"params": [model[0].bias, *model[3].parameters()], "lr": 0.02}]
        )
        optimizer.register_step_pre_hook(lambda o, *_: seen.append([group["lr"] for group in o.param_groups]))
        return optimizer

    with pytest.raises(Killed):
        tiny_trainer(
            "run", optimizer=two_rates, schedule=schedule, total_steps=9, save_every=1, objective=KilledAt(5)
        ).fit()
    trainer = tiny_trainer("run", optimizer=two_rates, schedule=schedule, total_steps=9)
    trainer.fit()
    assert seen == [[0.1 * schedule(step), 0.02 * schedule(step)] for step in range(9)]
    assert [float(row["lr"]) for row in rows_of(trainer.run, "train")] == pytest.approx([rates[0] for rates in seen])


def test_bf16_runs_the_model_under_autocast_and_keeps_float32_weights():
    kinds, model = set(), tiny_model()
    model[0].register_forward_hook(lambda linear, _, out: kinds.add((linear.training, out.dtype)))
    tiny_trainer("run", model=model, precision="bf16").fit()
    assert kinds == {(True, torch.bfloat16), (False, torch.bfloat16)}
    assert {p.dtype for p in model.parameters()} == {torch.float32}


# -- evaluation, the best, stopping --


def test_evaluation_is_the_mean_over_examples_in_eval_mode_without_touching_the_generators():
    model, data = tiny_model(dropout=0.5), Points(7)
    trainer = tiny_trainer("run", model=model, objective=Squares(), eval_batch_size=3)  # batches of 3, 3 and 1
    model.train()
    before = torch.get_rng_state()
    metrics = trainer.evaluate(data)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    model.eval()
    error = model(data.x).squeeze(-1) - data.y
    assert metrics == pytest.approx({"loss": error.square().mean().item(), "size": error.abs().mean().item()})
    trainer.evaluate(data)
    assert not model.training
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(("limits", "n_examples"), [((None, None), 7), ((2, None), 6), ((2, 1), 3), ((9, None), 7)])
def test_evaluation_may_stop_after_so_many_batches(limits, n_examples):
    of_pace, of_call = limits
    objective, data = Squares(), Points(7)
    trainer = tiny_trainer("run", objective=objective, eval_batch_size=3, max_eval_batches=of_pace)
    trainer.evaluate(data, max_batches=of_call)
    assert [number for batch in objective.evaluated for number in batch] == list(range(n_examples))


def test_a_bar_counts_the_batches_of_an_evaluation(capfd):
    trainer = tiny_trainer("run", objective=Squares(), eval_batch_size=3)
    trainer.evaluate(Points(7))
    assert capfd.readouterr().err == "", "none without a title"
    trainer.evaluate(Points(7), title="the test")
    assert "the test: 100%" in (shown := capfd.readouterr().err) and "3/3" in shown


def test_updates_by_hand_are_those_of_a_training_and_write_nothing():
    by_hand, fitted = (tiny_trainer(name, model=tiny_model(), objective=Squares()) for name in ("one", "other"))
    fitted.fit()
    updates = by_hand.updates()
    for _ in range(fitted.step):
        next(updates)
    assert_same_tensors(weights_of(by_hand.model), weights_of(fitted.model))
    assert not by_hand.run.path.exists()


class Scripted(Squares):
    """Gives evaluation results from a list, and keeps the weights that it was asked to evaluate.

    The first of all is not asked for the list: the trainer tries the objective before the first update.
    """

    def __init__(self, results):
        super().__init__()
        self.results, self.weights = results, []

    def measure(self, model, batch):
        if model.training:
            return super().measure(model, batch)
        if not self.trained:
            return {"loss": Ratio(torch.tensor(0.0), 1), "accuracy": Ratio(torch.tensor(0.0), 1)}
        self.weights.append(weights_of(model))
        result = torch.tensor(self.results[len(self.weights) - 1])
        return {"loss": Ratio(result, 1), "accuracy": Ratio(-result, 1)}


@pytest.mark.parametrize(
    ("results", "settings", "evaluations", "best"),
    [
        ([5, 3, 4, 2, 6, 7], {}, 6, 3),
        ([5, 3, 4, 2, 6, 7], {"patience": 1}, 3, 1),
        ([5, 3, 4, 4, 2, 1], {"patience": 2}, 4, 1),
        ([5, 3, 4, 2, 6, 7], {"target": 3.0}, 2, 1),
        ([5, 3, 4, 2, 6, 7], {"metric": "val/accuracy", "mode": "max", "target": -2.0}, 4, 3),
        ([5, 3, 4, 2, 6, 7], {"metric": "val/accuracy", "mode": "min"}, 6, 5),
        ([math.nan, 3, math.nan, 3, 2.5, 4], {"target": 1.0}, 6, 4),
    ],
)
def test_stops_when_told_and_keeps_the_weights_of_the_best_evaluation(results, settings, evaluations, best):
    objective, model = Scripted([float(r) for r in results]), tiny_model()
    trainer = tiny_trainer(
        "run",
        model=model,
        objective=objective,
        monitor=Monitor(**{"metric": "val/loss"} | settings),
        eval_every=2,
        val_data=Points(1),
    )
    trainer.fit()
    assert (len(objective.weights), trainer.step) == (evaluations, 2 * evaluations)
    assert len(objective.trained) == trainer.step
    kept = load_tensors(trainer.run.best_weights)[0]
    assert_same_tensors(kept, objective.weights[best])
    assert all(far_apart(kept, other) > 0 for i, other in enumerate(objective.weights) if i != best)
    figures = {"step": 2 * (best + 1), "val/loss": results[best], "val/accuracy": -results[best]}
    assert load_tensors(trainer.run.best_weights)[1] == figures
    trainer.load_best()
    assert_same_tensors(weights_of(model), objective.weights[best])
    again = tiny_trainer(
        "run", objective=Scripted([]), monitor=Monitor(**{"metric": "val/loss"} | settings), eval_every=2
    )
    again.fit()  # what has stopped stays stopped
    assert again.step == trainer.step


# -- nonsense --


class PoisonedAt(Squares):
    """Spoils the n-th training batch."""

    def __init__(self, batch, spoil):
        super().__init__()
        self.batch, self.spoil = batch, spoil

    def measure(self, model, batch):
        ratios = super().measure(model, batch)
        if model.training and len(self.trained) == self.batch:
            return ratios | {"loss": Ratio(self.spoil(ratios["loss"].total), 3)}
        return ratios


def infinite_slope(loss):
    return loss + (loss * 0).sqrt()  # finite itself


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda loss: loss * math.nan, "the loss became nan"),
        (lambda loss: loss * math.inf, "the loss became inf"),
        (infinite_slope, "the gradient's norm became nan"),
    ],
)
@pytest.mark.parametrize("batch", [9, 10])
@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_nonsense_stops_before_the_weights_change(spoil, what, batch, clip_norm):
    """Both batches of update 5 in their turn; the states of updates 3 and 4 are those of a run that went well."""
    settings = {"accumulate": 2, "save_every": 1, "clip_norm": clip_norm}
    tiny_trainer("good", total_steps=4, **settings).fit()
    model = tiny_model()
    trainer = tiny_trainer("bad", model=model, objective=PoisonedAt(batch, spoil), **settings)
    with pytest.raises(NonFiniteLoss) as caught:
        trainer.fit()
    message = str(caught.value)
    state = "bad/checkpoints/last/state.safetensors (step 3)"  # that of step 4 was never found to be good
    assert message.startswith(f"{what} at step 5; last good state: {state}. Try ")
    assert "\n" not in message
    good = load_tensors(tiny_trainer("good").run.last_state)[0]
    assert_same_tensors(weights_of(model), {name: good[f"model.{name}"] for name in weights_of(model)})
    saved, note = load_tensors(trainer.run.last_state)
    assert note["step"] == 3
    assert far_apart({n: saved[f"model.{n}"] for n in weights_of(model)}, weights_of(model)) > 0
    assert [path.name for path in trainer.run.last_state.parent.iterdir()] == ["state.safetensors"]


def test_the_state_before_the_first_update_is_saved_too():
    with pytest.raises(NonFiniteLoss, match=r"at step 1; last good state: run/.*/state.safetensors \(step 0\)"):
        tiny_trainer("run", objective=PoisonedAt(1, lambda loss: loss * math.nan)).fit()


def test_without_one_sane_evaluation_there_is_no_best(monkeypatch):
    trainer = tiny_trainer("run")
    monkeypatch.setattr(trainer, "evaluate", lambda _: {"loss": math.nan})
    trainer.fit()
    with pytest.raises(NonFiniteLoss, match="val/loss was nan in every evaluation"):
        trainer.load_best()


def test_rows_before_nonsense_are_kept():
    trainer = tiny_trainer("run", objective=PoisonedAt(4, lambda loss: loss * math.nan), save_every=100, eval_every=100)
    with pytest.raises(NonFiniteLoss):
        trainer.fit()
    assert [row["step"] for row in rows_of(trainer.run, "train")] == ["1", "2", "3"]


def test_a_training_set_that_fills_no_batch_is_refused():
    with pytest.raises(ValueError, match="2 training examples do not fill one batch of 3"):
        tiny_trainer("run", train_data=Points(2))


# -- the history --


def test_metrics_csv_has_the_rows_and_their_means():
    """With a rate of 0 the weights stay, so a row's mean is over whatever batches it spans."""
    data, val, model, objective = Points(12), Points(7), tiny_model(), Squares()
    data.set_epoch = lambda _: None
    trainer = tiny_trainer(
        "run",
        model=model,
        objective=objective,
        optimizer=lambda m: sgd(m, lr=0.0),
        train_data=data,
        val_data=val,
        total_steps=7,
        accumulate=2,
        log_every=2,
        eval_every=3,
    )
    trainer.fit()
    assert [row["step"] for row in rows_of(trainer.run, "train")] == ["2", "4", "6", "7"]
    assert [row["step"] for row in rows_of(trainer.run, "val")] == ["3", "6", "7"]
    for row, (start, end) in zip(rows_of(trainer.run, "train"), [(0, 4), (4, 8), (8, 12), (12, 14)], strict=True):
        numbers = list(itertools.chain(*objective.trained[start:end]))
        error = model(data.x[numbers]).squeeze(-1) - data.y[numbers]
        assert float(row["train/loss"]) == pytest.approx(error.square().mean().item(), rel=1e-6)
        assert float(row["train/size"]) == pytest.approx(error.abs().mean().item(), rel=1e-6)
        assert float(row["seconds"]) > 0
    error = model(val.x).squeeze(-1) - val.y
    for row in rows_of(trainer.run, "val"):
        assert float(row["val/loss"]) == pytest.approx(error.square().mean().item(), rel=1e-6)


def test_tensorboard_has_the_same_rows_once_after_a_kill_and_nothing_is_written_elsewhere(tmp_path):
    settings = {"trackers": ("tensorboard",), "save_every": 4, "eval_every": 3, "total_steps": 10}
    for batch in (6, 4):  # in update 6, with the state of update 4; from there on, in update 8, with that of update 6
        with pytest.raises(Killed):
            tiny_trainer("a/run", objective=KilledAt(batch), **settings).fit()
    trainer = tiny_trainer("a/run", **settings)
    trainer.fit()
    files = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert {path.parts[:2] for path in files} == {("a", "run")}
    plain = {str(path) for path in files if "tensorboard" not in path.parts}
    names = ("metrics.csv", "checkpoints/last/state.safetensors", "checkpoints/best/model.safetensors")
    assert plain == {f"a/run/{name}" for name in names}
    events = EventAccumulator(str(tmp_path / "a/run/tensorboard"))
    events.Reload()
    for prefix, steps in (("train", list(range(1, 11))), ("val", [3, 6, 9, 10])):
        rows = rows_of(trainer.run, prefix)
        assert [int(row["step"]) for row in rows] == steps
        scalars = events.Scalars(f"{prefix}/loss")
        assert [event.step for event in scalars] == steps
        assert [event.value for event in scalars] == pytest.approx([float(row[f"{prefix}/loss"]) for row in rows])


# -- kill and resume --


def same_history(one, other):
    for prefix in ("train", "val"):
        a, b = ([row | {"seconds": ""} for row in rows_of(t.run, prefix)] for t in (one, other))
        assert a == b


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "save_every"), [("adam", 1), ("adafactor", 1), ("adam", 4)])
def test_resume_after_kill_in_any_update_is_bit_identical(optimizer, save_every):
    settings = {"optimizer": optimizer, "accumulate": 2, "save_every": save_every, "schedule": one_cycle(12)}
    whole = tiny_trainer("whole", model=tiny_model(dropout=0.3), **settings)
    whole.fit()
    for batch in range(1, 25):  # the first or second of each of the 12 updates
        torch.manual_seed(batch)  # whatever the process drew before must not matter
        killed = tiny_trainer(f"killed{batch}", model=tiny_model(dropout=0.3), objective=KilledAt(batch), **settings)
        with pytest.raises(Killed):
            killed.fit()
        torch.manual_seed(100 + batch)
        resumed = tiny_trainer(f"killed{batch}", model=tiny_model(dropout=0.3), **settings)
        resumed.fit()
        updates = killed.step
        saved = max([s for s in range(updates + 1) if s % save_every == 0 or s % 5 == 0], default=0)
        assert len(resumed.objective.trained) == 2 * (12 - saved), (
            "resumed from the last saved state, not from the start"
        )
        assert_same_file(resumed.run.last_state, whole.run.last_state)
        assert_same_file(resumed.run.best_weights, whole.run.best_weights)
        if save_every == 1:
            same_history(resumed, whole)


def test_resume_continues_an_unfinished_row_of_figures():
    """Its mean is over all batches since the row before, those before the saved state included."""
    settings = {"save_every": 3, "log_every": 5}
    whole = tiny_trainer("whole", **settings)
    whole.fit()
    with pytest.raises(Killed):
        tiny_trainer("killed", objective=KilledAt(9), **settings).fit()  # with the state of update 6
    resumed = tiny_trainer("killed", **settings)
    resumed.fit()
    same_history(resumed, whole)
    seconds = [float(row["seconds"]) for row in rows_of(resumed.run, "train")]
    assert resumed.seconds == pytest.approx(sum(seconds), rel=1e-6)  # those before the kill included
    assert len(seconds) == 3


def dying_at(state, step):
    save = checkpoint.save_tensors

    def save_or_die(path, tensors, note):
        if path == state and note["step"] == step:
            raise Killed
        save(path, tensors, note)

    return save_or_die


def test_resume_keeps_history_without_duplicate_rows(monkeypatch):
    whole, killed = tiny_trainer("whole"), tiny_trainer("killed", save_every=2)
    whole.fit()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(checkpoint, "save_tensors", dying_at(killed.run.last_state, step=5))
        killed.fit()
    assert len(rows_of(killed.run, "train")) == 5 and load_tensors(killed.run.last_state)[1]["step"] == 4
    resumed = tiny_trainer("killed")
    resumed.fit()
    same_history(resumed, whole)


def test_dropout_and_the_order_of_the_data_matter_to_the_test_above():
    ends = []
    for seed, dropout in ((3, 0.3), (4, 0.3), (3, 0.0)):
        trainer = tiny_trainer(f"run{seed}{dropout}", model=tiny_model(dropout), total_steps=4)
        trainer.seed = seed
        trainer.fit()
        ends.append(weights_of(trainer.model))
    assert far_apart(ends[0], ends[1]) > 1e-4 and far_apart(ends[0], ends[2]) > 1e-4


def test_resuming_a_finished_run_changes_nothing():
    first = tiny_trainer("run")
    first.fit()
    before = {path: path.read_bytes() for path in first.run.path.rglob("*") if path.is_file()}
    again = tiny_trainer("run")
    again.fit()
    assert again.objective.trained == again.objective.evaluated == []
    assert_same_tensors(weights_of(again.model), weights_of(first.model))
    assert {path: path.read_bytes() for path in first.run.path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda whole: whole[: len(whole) // 2], "not a complete safetensors file"),
        (lambda _: b"PK\x03\x04 a zip file", "not a complete safetensors file"),
    ],
)
def test_a_broken_state_is_refused_in_one_line(content, message):
    first = tiny_trainer("run")
    first.fit()
    first.run.last_state.write_bytes(content(first.run.last_state.read_bytes()))
    with pytest.raises(CheckpointError, match=message) as caught:
        tiny_trainer("run").fit()
    assert "\n" not in str(caught.value) and str(first.run.last_state) in str(caught.value)


def test_a_state_of_another_model_and_plain_weights_are_refused_in_one_line():
    first = tiny_trainer("run")
    first.fit()
    wider = nn.Sequential(nn.Linear(3, 9), nn.Tanh(), nn.Dropout(0.0), nn.Linear(9, 1))
    with pytest.raises(CheckpointError, match=r"0.weight is \(8, 3\), the model's is \(9, 3\)"):
        tiny_trainer("run", model=wider).fit()
    first.run.last_state.write_bytes(first.run.best_weights.read_bytes())
    with pytest.raises(CheckpointError, match=r"state\.safetensors: ") as caught:
        tiny_trainer("run").fit()
    assert "\n" not in str(caught.value)
    load_weights(first.run.best_weights, tiny_model())


class Derives(Squares):
    """Also gives the root of the mean squared error, which is no mean."""

    def derived(self, means):
        return {"root": math.sqrt(means["loss"])}


def test_what_a_task_derives_comes_from_the_means_over_everything():
    trainer = tiny_trainer("run", objective=Derives(), total_steps=4, log_every=2, monitor=Monitor("val/root"))
    trainer.fit()
    metrics = trainer.evaluate(Points(7))
    assert metrics["root"] == math.sqrt(metrics["loss"])
    rows = rows_of(trainer.run, "train") + rows_of(trainer.run, "val")
    assert len(rows) == 3
    for row in rows:
        split = "train" if row["train/loss"] else "val"
        assert float(row[f"{split}/root"]) == pytest.approx(math.sqrt(float(row[f"{split}/loss"])), rel=1e-6)


def test_a_compiled_models_files_are_the_bare_models(tmp_path):
    """A training that began compiled goes on without, to the same weights."""
    compiled = tiny_trainer(tmp_path / "one", model=torch.compile(tiny_model(), backend="eager"), total_steps=6)
    compiled.fit()
    tiny_trainer(tmp_path / "other", total_steps=6).fit()
    for path in ("best/model.safetensors", "last/state.safetensors"):
        tensors = [load_tensors(tmp_path / name / "checkpoints" / path)[0] for name in ("one", "other")]
        assert_same_tensors(*tensors)
    tiny_trainer(tmp_path / "one", total_steps=8).fit()


def test_tensorboard_failing_is_a_warning_and_training_goes_on(tmp_path, capfd):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tensorboard").write_text("no folder")
    trainer = tiny_trainer(tmp_path / "run", trackers=("tensorboard",))
    trainer.fit()
    said = [line for line in capfd.readouterr().err.splitlines() if "warning:" in line]
    assert len(said) == 1 and str(tmp_path / "run" / "tensorboard") in said[0]
    assert len(rows_of(trainer.run, "train")) == 12
