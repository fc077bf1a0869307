"""The training loop: update, evaluate, keep the best, save everything, stop on nonsense."""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, send_to_device
from torch import nn
from torch.utils.data import Dataset
from tqdm import tqdm

from my_custom_ai.custom_train import checkpoint
from my_custom_ai.custom_train.data import TrainingBatches, evaluation_batches
from my_custom_ai.custom_train.errors import NonFiniteLoss
from my_custom_ai.custom_train.monitor import Monitor
from my_custom_ai.custom_train.objective import Objective, all_figures
from my_custom_ai.custom_train.run_directory import RunDirectory
from my_custom_ai.custom_train.schedules import Schedule
from my_custom_ai.utils.meters import Meter, Ratio
from my_custom_ai.utils.seeding import generator_states, seed_everything, set_generator_states
from my_custom_ai.utils.trackers import Curves, MetricsFile


@dataclass(frozen=True)
class Pace:
    """How much, how often.

    Args:
        total_steps: updates of the weights in all.
        eval_batch_size: examples a batch in evaluation.
        batch_size: examples a batch and process; give this or batch_tokens.
        batch_tokens: bound of a batch and process; see :class:`~my_custom_ai.custom_train.data.TrainingBatches`.
        accumulate: batches per update and process. The update follows the gradient of the mean loss over all that the
            ``accumulate`` batches of all processes count (tokens, examples), as if they were one batch.
        clip_norm: largest norm of the gradient; 0 leaves it as it is.
        eval_every: updates between evaluations on the validation data.
        save_every: updates between saved states besides those after each evaluation.
        log_every: updates between rows of training figures.
        num_workers: processes that load data.
        trackers: what records curves besides metrics.csv; see :class:`~my_custom_ai.utils.trackers.Curves`.
    """

    total_steps: int
    eval_batch_size: int
    batch_size: int | None = None
    batch_tokens: int | None = None
    accumulate: int = 1
    clip_norm: float = 0.0
    eval_every: int = 100
    save_every: int = 100
    log_every: int = 10
    num_workers: int = 0
    trackers: tuple[str, ...] = ()


class Trainer:
    """Trains any module on any objective, and can be killed at any instant.

    Args:
        accelerator: from :func:`my_custom_ai.custom_train.devices.start`.
        model: on any device.
        objective: its loss and metrics.
        optimizer: over the model's parameters; their rates are the peak of the schedule.
        schedule: factor of the rates at each step.
        train_data: examples with a length; see :class:`~my_custom_ai.custom_train.data.TrainingBatches`.
        val_data: chooses the best weights; never the test data.
        run: where the files go. If it holds a saved state, :meth:`fit` continues from there.
        monitor: what "best" means, and when to stop early.
        pace: how much, how often.
        seed: of the order of the data and of all that is random in training.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        *,
        schedule: Schedule,
        train_data: Dataset,
        val_data: Dataset,
        run: RunDirectory,
        monitor: Monitor,
        pace: Pace,
        seed: int,
    ) -> None:
        self.accelerator = accelerator
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.objective = objective
        self.schedule = schedule
        self.val_data = val_data
        self.run = run
        self.monitor = monitor
        self.pace = pace
        self.seed = seed
        self.step = 0  # updates done
        self._meter = Meter()  # of all processes' batches since the last row of training figures
        self._peak_rates = [group["lr"] for group in optimizer.param_groups]
        self._batches = TrainingBatches(
            train_data,
            batch_size=pace.batch_size,
            batch_tokens=pace.batch_tokens,
            seed=seed,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            num_workers=pace.num_workers,
        )

    def fit(self) -> None:
        """Train to the last step, to the monitor's target or until its patience runs out.

        Raises:
            NonFiniteLoss: before the weights are touched by it.
            CheckpointError: the saved state is not whole, or of another model.
        """
        self._restore()
        self._curves = Curves(self.pace.trackers if self.accelerator.is_main_process else (), self.run.path, self.step)
        stream = self._batches.starting_at(self.step * self.pace.accumulate)
        since = time.perf_counter()
        with self._progress() as bar:
            while self.step < self.pace.total_steps and not self.monitor.stopped:
                self._meter.add(self._update(stream))
                bar.update()
                last = self.step == self.pace.total_steps
                if last or self.step % self.pace.log_every == 0:
                    since = self._log_training(since, bar)
                if last or self.step % self.pace.eval_every == 0:
                    self._evaluate_and_keep(bar)
                    self._save_state()
                elif self.step % self.pace.save_every == 0:
                    self._save_state()
        self._curves.close()

    def evaluate(self, data: Dataset) -> dict[str, float]:
        """Each metric's mean over every example of ``data``, once each, on all processes together."""
        model = self.accelerator.unwrap_model(self.model)  # it keeps autocast and leaves out DDP's synchronising
        batches = evaluation_batches(
            data,
            batch_size=self.pace.eval_batch_size,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
            num_workers=self.pace.num_workers,
        )
        return evaluate(model, self.objective, batches, self.accelerator)

    def load_best(self) -> None:
        """Give the model the best weights of the run.

        Raises:
            NonFiniteLoss: there are none, because the monitored metric was nan in each evaluation.
        """
        self.accelerator.wait_for_everyone()
        if not self.run.best_weights.exists():
            raise NonFiniteLoss(f"no best weights were found: {self.monitor.metric} was nan in every evaluation")
        checkpoint.load_weights(self.run.best_weights, self._bare_model)

    @property
    def seconds(self) -> float:
        """Time that the training took up to its last row, that before a resume included."""
        return sum(float(row["seconds"]) for row in self._history.rows if row.get("seconds"))

    @property
    def _bare_model(self) -> nn.Module:
        return self.accelerator.unwrap_model(self.model)

    def _update(self, stream: Iterator[Any]) -> dict[str, Ratio]:
        """One step of the optimiser on ``accumulate`` batches of every process; returns the sums over them all."""
        self.model.train()
        for group, rate in zip(self.optimizer.param_groups, self._peak_rates, strict=True):
            group["lr"] = rate * self.schedule(self.step)
        ratios = self._accumulate_gradients(stream)
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.pace.clip_norm or math.inf)
        if not self.accelerator.scaler:  # which skips an update whose gradient overflowed in float16
            self._check_finite("gradient's norm", norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return ratios

    def _accumulate_gradients(self, stream: Iterator[Any]) -> dict[str, Ratio]:
        """Leave the gradient of the mean loss over ``accumulate`` batches of every process; return the sums over them.

        A batch's count is known only after its forward pass, so the gradient is a running mean: before each backward
        pass it is rescaled to the count so far. A sum, divided at the end, could overflow in float16.
        """
        meter, divisor = Meter(), 1.0
        for part in range(self.pace.accumulate):
            last = part == self.pace.accumulate - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
                ratios = self.objective.measure(self.model, send_to_device(next(stream), self.accelerator.device))
                meter.add(ratios)
                sums = self._sums_over_processes(meter) if last else meter.sums()
                loss = Ratio(*sums["loss"])
                before, divisor = divisor, loss.count.clamp_min(1)
                if last:
                    divisor = divisor / self.accelerator.num_processes  # over which DDP takes the mean
                if part:
                    self._scale_gradients(before / divisor)
                self.accelerator.backward(ratios["loss"].total / divisor)
        # on all processes alike, so that none waits for another; after backward, or a GPU would idle meanwhile
        self._check_finite("loss", loss.value)
        return {name: Ratio(*pair) for name, pair in sums.items()}

    def _sums_over_processes(self, meter: Meter) -> dict[str, torch.Tensor]:
        sums = meter.sums()
        if self.accelerator.num_processes == 1:
            return sums
        pairs = torch.stack([pair.to(self.accelerator.device) for pair in sums.values()])
        return dict(zip(sums, self.accelerator.reduce(pairs, reduction="sum"), strict=True))

    def _scale_gradients(self, factor: torch.Tensor) -> None:
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(factor)

    def _check_finite(self, what: str, value: torch.Tensor) -> None:
        if not math.isfinite(value.item()):
            if self.accelerator.is_main_process:
                self._history.write()
            good = self.run.last_state if self.run.last_state.exists() else "none was saved yet"
            raise NonFiniteLoss(
                f"the {what} became {value.item()} at step {self.step + 1}; last good checkpoint: {good}. "
                "Try a lower learning rate, a longer warm-up, gradient clipping, or precision 'no'"
            )

    def _evaluate_and_keep(self, bar: tqdm) -> None:
        metrics = {f"val/{name}": value for name, value in self.evaluate(self.val_data).items()}
        self._record(metrics)
        if self.monitor.update(metrics) and self.accelerator.is_main_process:
            checkpoint.save_weights(self.run.best_weights, self._bare_model, {"step": self.step} | metrics)
        shown = f"{self.monitor.metric} {metrics[self.monitor.metric]:.4f}"
        bar.set_postfix_str(", ".join(filter(None, (bar.postfix_text, shown))))

    def _log_training(self, since: float, bar: tqdm) -> float:
        means = all_figures(self.objective, self._meter.means())
        self._meter.reset()
        now = time.perf_counter()
        rate = self.optimizer.param_groups[0]["lr"]
        self._record({f"train/{name}": value for name, value in means.items()} | {"lr": rate, "seconds": now - since})
        bar.postfix_text = ", ".join(f"{name} {value:.4f}" for name, value in means.items())
        bar.set_postfix_str(bar.postfix_text)
        return now

    def _record(self, values: dict[str, float]) -> None:
        self._history.add(self.step, values)
        self._curves.add(self.step, values)

    def _progress(self) -> tqdm:
        bar = tqdm(
            initial=self.step,
            total=self.pace.total_steps,
            unit="step",
            desc=self.run.path.parent.name,
            dynamic_ncols=True,
            disable=not self.accelerator.is_main_process,
        )
        bar.postfix_text = ""
        return bar

    # -- the state of a training, in one file, so that it is whole or not there --

    def _save_state(self) -> None:
        own = generator_states(self.accelerator.device)
        generators = gather_object([own])  # every process draws its own random numbers
        if not self.accelerator.is_main_process:
            return
        moments, numbers = checkpoint.optimizer_tensors(self.optimizer.state_dict())
        tensors = checkpoint.prefixed("model", checkpoint.weights(self._bare_model))
        tensors |= checkpoint.prefixed("optimizer", moments)
        for rank, states in enumerate(generators):
            tensors |= checkpoint.prefixed(f"generator.{rank}", states)
        scaler = self.accelerator.scaler.state_dict() if self.accelerator.scaler else {}
        note = {
            "step": self.step,
            "processes": self.accelerator.num_processes,
            "monitor": self.monitor.state(),
            "meter": {name: pair.tolist() for name, pair in self._meter.sums().items()},
            "optimizer": numbers,
            "scaler": scaler,
        }
        self._history.write()
        checkpoint.save_tensors(self.run.last_state, tensors, note)

    def _restore(self) -> None:
        """Continue from the run's saved state, if there is one."""
        path = self.run.last_state
        if not path.exists():
            seed_everything(self.seed + self.accelerator.process_index)
            self._history = MetricsFile(self.run.metrics)
            return
        tensors, note = checkpoint.load_tensors(path)
        if "processes" not in note:
            raise checkpoint.CheckpointError(f"{path}: holds weights or other tensors, but no training to continue")
        if note["processes"] != self.accelerator.num_processes:
            raise checkpoint.CheckpointError(
                f"{path}: saved by {note['processes']} process(es), cannot continue exactly on "
                f"{self.accelerator.num_processes}"
            )
        checkpoint.fill(self._bare_model, checkpoint.without_prefix("model", tensors), path)
        moments = checkpoint.without_prefix("optimizer", tensors)
        like = self.optimizer.state_dict()
        self.optimizer.load_state_dict(checkpoint.optimizer_state(moments, note["optimizer"], like))
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(note["scaler"])
        for name, value in note["monitor"].items():
            setattr(self.monitor, name, value)
        self._meter.restore(note["meter"], self.accelerator.device)
        self.step = note["step"]
        try:
            self._history = MetricsFile(self.run.metrics, last_step=self.step)
        except (KeyError, TypeError, ValueError):
            raise checkpoint.CheckpointError(f"{self.run.metrics}: not a history with a step in each row") from None
        own = checkpoint.without_prefix(f"generator.{self.accelerator.process_index}", tensors)
        set_generator_states(own, self.accelerator.device)


@torch.no_grad()
def evaluate(model: nn.Module, objective: Objective, batches: Any, accelerator: Accelerator) -> dict[str, float]:
    """Each of the objective's metrics over all batches; sums and counts are added before dividing, and over processes.

    With what the objective derives from them.
    """
    was_training = model.training
    model.eval()
    meter = Meter()
    for batch in batches:
        meter.add(objective.measure(model, send_to_device(batch, accelerator.device)))
    model.train(was_training)
    if accelerator.num_processes == 1:
        return all_figures(objective, meter.means())
    everyones: list[dict[str, list[float]]] = gather_object([{k: v.tolist() for k, v in meter.sums().items()}])
    names = dict.fromkeys(name for sums in everyones for name in sums)
    totals = {n: [sum(sums[n][i] for sums in everyones if n in sums) for i in (0, 1)] for n in names}
    means = {name: total / count if count else math.nan for name, (total, count) in totals.items()}
    return all_figures(objective, means)
