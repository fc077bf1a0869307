"""A mistake is refused before the first update, in one line that says what is wrong."""

import pytest
import torch
from tiny_training import Points, Squares, sgd, tiny_model, tiny_trainer
from torch.utils.data import IterableDataset

from my_custom_ai import Monitor, Pace, Ratio, SetupError


class Stream(IterableDataset):
    def __iter__(self):
        yield from Points(9)


class Returns(Squares):
    """Squared error, changed by a function of (ratios, whether in training)."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def measure(self, model, batch):
        return self.change(super().measure(model, batch), model.training)


def changed(name, make):
    return lambda ratios, training: ratios | {name: make(ratios["loss"])}


def no_loss(ratios, training):
    return {"size": ratios["size"]}


def no_loss_in_evaluation(ratios, training):
    return ratios if training else no_loss(ratios, training)


def no_loss_in_training(ratios, training):
    return no_loss(ratios, training) if training else ratios


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_loss, "Returns.measure returned no 'loss', only 'size'"),
        (no_loss_in_evaluation, "Returns.measure returned no 'loss', only 'size'"),
        (no_loss_in_training, "Returns.measure returned no 'loss', only 'size'"),
        (lambda ratios, _: {}, "returned no 'loss', only an empty dict"),
        (lambda ratios, _: None, "returned a NoneType, must return a dict"),
        (lambda ratios, _: ratios["loss"].value, r"returned a tensor of shape \(\), must return a dict"),
        (changed("loss", lambda loss: loss.value), r"a tensor of shape \(\) as 'loss', must be a Ratio"),
        (changed("accuracy", lambda loss: 0.5), "a float as 'accuracy', must be a Ratio"),
        (changed("accuracy", lambda loss: (loss.total, 3)), "a tuple as 'accuracy', must be a Ratio"),
        (changed("loss", lambda loss: Ratio(loss.total.item(), 3)), "the total of 'loss' is a float, must be a tensor"),
        (changed("loss", lambda loss: Ratio(loss.total[None], 3)), r"total of 'loss' is a tensor of shape \(1,\)"),
        (
            changed("loss", lambda loss: Ratio(loss.total, torch.ones(2))),
            r"count of 'loss' is a tensor of shape \(2,\)",
        ),
        (changed("loss", lambda loss: Ratio(loss.total, "3")), "the count of 'loss' is a str, must be a number"),
        (changed("loss", lambda loss: Ratio(loss.total.detach(), 3)), "the loss has no gradient"),
    ],
)
def test_an_objective_that_returns_something_else(change, message):
    model, optimizer = tiny_model(), sgd
    before = [p.clone() for p in model.parameters()]
    trainer = tiny_trainer("run", model=model, objective=Returns(change), optimizer=optimizer)
    with pytest.raises(ValueError, match=message) as caught:
        trainer.fit()
    assert "\n" not in str(caught.value)
    assert trainer.step == 0 and all(map(torch.equal, before, model.parameters()))
    assert not trainer.run.best_weights.exists()


def test_a_metric_that_no_evaluation_has():
    trainer = tiny_trainer("run", monitor=Monitor("val/acuracy"))
    with pytest.raises(ValueError, match="'val/acuracy' is not among val/loss, val/size"):
        trainer.fit()
    assert not trainer.objective.trained


def test_trying_the_objective_changes_nothing():
    """Not even for what draws random numbers in evaluation."""

    class Draws(Squares):
        def measure(self, model, batch):
            torch.rand(len(self.evaluated) + 1)
            return super().measure(model, batch)

    class DrawsOnlyInTraining(Draws):
        def measure(self, model, batch):
            return (super() if model.training else super(Draws, self)).measure(model, batch)

    ends = []
    for kind in (Draws, DrawsOnlyInTraining):
        model = tiny_model(dropout=0.3)
        tiny_trainer(kind.__name__, model=model, objective=kind(), total_steps=4, eval_every=9).fit()
        ends.append([p.clone() for p in model.parameters()])
    assert all(map(torch.equal, *ends))


class CallsNothing:
    pass


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"val_data": Stream()}, "validation data: Stream has no length"),
        ({"train_data": Stream()}, "training data: Stream has no length"),
        ({"val_data": Points(0)}, "validation data: it is empty"),
        ({"objective": CallsNothing()}, r"objective: CallsNothing has no method measure\(model, batch\)"),
        ({"optimizer": lambda model: sgd(tiny_model())}, "optimizer: it has none of the model's parameters"),
        (
            {"schedule": torch.optim.lr_scheduler.StepLR(sgd(tiny_model()), 3)},
            "schedule: a StepLR is not a function from the step",
        ),
    ],
)
def test_arguments_that_cannot_work(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        tiny_trainer("run", **settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        *(
            ({name: 0}, f"{name} is 0, must be at least 1")
            for name in (
                "total_steps",
                "batch_size",
                "eval_batch_size",
                "accumulate",
                "eval_every",
                "save_every",
                "log_every",
            )
        ),
        ({"batch_size": None, "batch_tokens": 0}, "batch_tokens is 0, must be at least 1"),
        ({"batch_size": None}, "give either batch_size or batch_tokens"),
        ({"batch_tokens": 9}, "give either batch_size or batch_tokens"),
        ({"clip_norm": -1.0}, "clip_norm is -1.0, must be at least 0"),
        ({"num_workers": -1}, "num_workers is -1, must be at least 0"),
        ({"trackers": ("tensorbord",)}, "trackers has tensorbord, allowed are tensorboard and wandb"),
    ],
)
def test_numbers_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        Pace(**{"total_steps": 3, "batch_size": 2} | settings)


def test_a_tracker_that_is_not_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SetupError, match="tracker 'wandb' is not installed"):
        tiny_trainer("run", trackers=("wandb",))
