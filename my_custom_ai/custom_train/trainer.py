"""The training loop: update, evaluate, keep the best, save everything, stop on nonsense."""

import contextlib
import math
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import Dataset
from tqdm import tqdm

import my_custom_ai.custom_train.checkpoint as checkpoint  # "from" would ask the package, which imports the trainer
from my_custom_ai.custom_train.beginning import check_arguments, check_gradient, new_run
from my_custom_ai.custom_train.data import TrainingBatches, evaluation_batches, to_device
from my_custom_ai.custom_train.devices import check_installed, start
from my_custom_ai.custom_train.errors import CheckpointError, NonFiniteLoss
from my_custom_ai.custom_train.evaluation import evaluate, metrics_of_first_examples
from my_custom_ai.custom_train.monitor import Monitor
from my_custom_ai.custom_train.objective import Objective, all_figures, measured
from my_custom_ai.custom_train.pace import Pace
from my_custom_ai.custom_train.run_directory import RunDirectory
from my_custom_ai.custom_train.schedules import Schedule, constant
from my_custom_ai.custom_train.state import StateFile, load_state, put_back, tensors_of
from my_custom_ai.custom_train.stopping import TrainingSignal
from my_custom_ai.utils.meters import Meter, Ratio
from my_custom_ai.utils.seeding import generator_states, seed_everything, set_generator_states
from my_custom_ai.utils.signals import Stopped
from my_custom_ai.utils.trackers import Curves, MetricsFile


class Trainer:
    """Trains any module on any objective, and can be killed at any instant.

    Args:
        model: on any device; the trainer moves it.
        objective: its loss and metrics.
        optimizer: over the model's parameters; their rates are the peak of the schedule. See
            :func:`~my_custom_ai.custom_train.optimizers.build_optimizer`.
        train_data: examples with a length; see :class:`~my_custom_ai.custom_train.data.TrainingBatches`.
        val_data: chooses the best weights; never the test data.
        pace: how much, how often.
        run: where the files go. A path such as "runs/digits" names an experiment: a new ``version_N`` is made in it. A
            :class:`~my_custom_ai.custom_train.run_directory.RunDirectory` is used as it is: if it holds a saved state,
            :meth:`fit` continues from there.
        schedule: factor of the rates at each step; None is 1 throughout. See
            :mod:`~my_custom_ai.custom_train.schedules`.
        monitor: what "best" means, and when to stop early; None is the lowest "val/loss", and no early stop.
        seed: of the order of the data and of all that is random in training. The model's first weights are drawn
            before; seed those with :func:`~my_custom_ai.utils.seeding.seed_everything`.
        accelerator: from :func:`~my_custom_ai.custom_train.devices.start`; None starts the fastest device there is.

    Raises:
        ValueError: an argument that cannot work; nothing was written.
        SetupError: a tracker is not installed.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        *,
        train_data: Dataset[Any],
        val_data: Dataset[Any],
        pace: Pace,
        run: RunDirectory | Path | str,
        schedule: Schedule | None = None,
        monitor: Monitor | None = None,
        seed: int = 0,
        accelerator: Accelerator | None = None,
    ) -> None:
        check_arguments(model, objective, optimizer, val_data, schedule)
        check_installed(pace.trackers)
        self.accelerator = accelerator or start()
        self.objective = objective
        self.schedule = schedule or constant()
        self.val_data = val_data
        self.monitor = monitor or Monitor()
        self.pace = pace
        self.seed = seed
        self.step = 0  # updates done
        self._training_figures = ""  # the last row of them, for the progress bar
        self._meter = Meter()  # of all processes' batches since the last row of training figures
        self._peak_rates = [group["lr"] for group in optimizer.param_groups]
        self._batches = TrainingBatches(
            train_data,
            batch_size=pace.batch_size,
            batch_tokens=pace.batch_tokens,
            seed=seed,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
            num_workers=pace.num_workers,
            pin_memory=self._pin_memory,
        )
        pace_settings = asdict(pace) | {"trackers": list(pace.trackers)}
        settings = {"seed": seed, "pace": pace_settings, "monitor": self.monitor.settings()}
        self.run = run if isinstance(run, RunDirectory) else new_run(Path(run), settings, self.accelerator)
        self._history = MetricsFile(self.run.metrics)
        self._state_file = StateFile(self.run.last_state)
        self._saved_at = time.monotonic()
        self._evaluation_due = False  # of the weights of the present step
        self._signal = TrainingSignal()
        self._common_wishes = torch.zeros(2)  # of all processes together, see _own_wishes
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)

    def fit(self, begin: Callable[[], None] | None = None) -> None:
        """Train to the last step, to the monitor's target or until its patience runs out.

        Args:
            begin: called when the saved state, if there is one, was read.

        Raises:
            NonFiniteLoss: before the weights are touched by it.
            Stopped: a signal came (Ctrl-C, SIGTERM, SIGHUP, SIGUSR1); the update in work was ended, and all saved.
            CheckpointError: the saved state is not whole, or of another model.
            ValueError: before the first update, if the objective does not return what
                :class:`~my_custom_ai.custom_train.objective.Objective` says, its loss has no gradient, or the monitored
                metric is not among those of an evaluation.
        """
        with checkpoint.reading_state(self.run.last_state):
            self._restore()
        if begin is not None:
            begin()
        if not self._finished:
            self._try_evaluation()
        if not self.run.last_state.exists():
            self._save_state()  # something to go back to, should the first updates go wrong
        self._curves = Curves(self.pace.trackers if self.accelerator.is_main_process else (), self.run.path, self.step)
        try:
            with self._progress() as bar, self._signal:
                self._train(bar)
                self._signal.stop_if_asked(self.accelerator, f"all {self.step:,} steps are done and saved")
        finally:
            self._curves.close()

    def _train(self, bar: "tqdm[NoReturn]") -> None:
        """All updates that are left, and what comes between them."""
        updates = self.updates()
        since = time.perf_counter()
        if self._evaluation_due:
            self._evaluate_and_keep(bar)
        while not self._finished:
            self._meter.add(next(updates))
            if self.accelerator.is_main_process:
                self._state_file.proven()
            bar.update()
            last = self.step == self.pace.total_steps
            if last or self.step % self.pace.log_every == 0:
                since = self._log_training(since, bar)
            self._evaluation_due = last or self.step % self.pace.eval_every == 0
            self._save_if_due()
            if self._evaluation_due:
                self._evaluate_and_keep(bar)

    def _save_if_due(self) -> None:
        """Save the state that the last update left, if it is time to (an evaluation saves too); stop if asked to."""
        several = self.accelerator.num_processes > 1
        stop, late = self._common_wishes.tolist() if several else self._own_wishes()
        if stop:
            self._save_and_stop()
        if late or (self.step % self.pace.save_every == 0 and not self._evaluation_due):
            self._save_state()

    def _own_wishes(self) -> tuple[bool, bool]:
        """Whether a signal asked this process to stop, and whether the main one finds it time to save."""
        late = time.monotonic() - self._saved_at > 60 * self.pace.save_minutes
        return self._signal.number is not None, late and self.accelerator.is_main_process

    def _save_and_stop(self) -> NoReturn:
        self._save_state()
        raise self._signal.stopped(f"saved after step {self.step:,} of {self.pace.total_steps:,}") from None

    def updates(self) -> Iterator[dict[str, Ratio]]:
        """An update of the weights for each time that the next is asked for, from the present step on, without end.

        Gives the sums that the update's losses and metrics are made of. Nothing is written.
        """
        stream = self._batches.starting_at(self.step * self.pace.accumulate)
        while True:
            yield self._update(stream)

    def evaluate(
        self,
        data: Dataset[Any],
        *,
        title: str | None = None,
        max_batches: int | None = None,
        intervals: Collection[str] = (),
    ) -> dict[str, float]:
        """Each metric's mean over every example of ``data``, once each, on all processes together.

        Args:
            data: with a length.
            title: what the progress bar is called; None shows none.
            max_batches: the first so many of each process alone; None: those that the pace allows.
            intervals: see :func:`~my_custom_ai.custom_train.evaluation.evaluate`.
        """
        model = self.accelerator.unwrap_model(self.model)  # it keeps autocast and leaves out DDP's synchronising
        batches = evaluation_batches(
            data,
            batch_size=self.pace.eval_batch_size,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
            num_workers=self.pace.num_workers,
            pin_memory=self._pin_memory,
        )
        count = min(len(batches), max_batches or self.pace.max_eval_batches or len(batches))
        hidden = title is None or not self.accelerator.is_main_process
        some = tqdm(islice(batches, count), title, count, unit="batch", dynamic_ncols=True, disable=hidden)
        return evaluate(model, self.objective, some, self.accelerator, intervals=intervals, signal=self._signal)

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
    def _finished(self) -> bool:
        return self.step >= self.pace.total_steps or self.monitor.stopped

    @property
    def _pin_memory(self) -> bool:
        return self.accelerator.device.type == "cuda"

    @property
    def _bare_model(self) -> nn.Module:
        return self.accelerator.unwrap_model(self.model)

    def _try_evaluation(self) -> None:
        figures = metrics_of_first_examples(self._bare_model, self.objective, self.val_data, self.accelerator)
        self.monitor.check([f"val/{name}" for name in figures])

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
        meter = Meter()
        before: torch.Tensor | float = 1.0  # the divisor of the batches so far
        sums: dict[str, torch.Tensor] = {}
        for part in range(self.pace.accumulate):
            last = part == self.pace.accumulate - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
                ratios = measured(self.objective, self.model, to_device(next(stream), self.accelerator.device))
                check_gradient(ratios["loss"].total)
                meter.add(ratios)
                sums = self._sums_over_processes(meter) if last else meter.sums()
                _, count = sums["loss"]
                divisor = count.clamp_min(1)
                if last:
                    divisor = divisor / self.accelerator.num_processes  # over which DDP takes the mean
                if part:
                    self._scale_gradients(before / divisor)
                self.accelerator.backward(ratios["loss"].total / divisor)
                before = divisor
        # on all processes alike, so that none waits for another; after backward, or a GPU would idle meanwhile
        self._check_finite("loss", Ratio(*sums["loss"]).value)
        return {name: Ratio(*pair) for name, pair in sums.items()}

    def _sums_over_processes(self, meter: Meter) -> dict[str, torch.Tensor]:
        sums = meter.sums()
        if self.accelerator.num_processes == 1:
            return sums
        pairs = [pair.to(self.accelerator.device) for pair in sums.values()]
        wishes = torch.stack([pairs[0].new_full((), wish) for wish in self._own_wishes()])
        *pairs, wishes = self.accelerator.reduce(torch.stack([*pairs, wishes]), reduction="sum")
        self._common_wishes = wishes  # of which nothing is asked yet, or a GPU would idle
        return dict(zip(sums, pairs, strict=True))

    def _scale_gradients(self, factor: torch.Tensor) -> None:
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(factor)

    def _check_finite(self, what: str, value: torch.Tensor) -> None:
        if not math.isfinite(value.item()):
            if self.accelerator.is_main_process:
                self._history.write()
                self._state_file.failed_after(self.step)
            raise NonFiniteLoss(
                f"the {what} became {value.item()} at step {self.step + 1}; last good state: {self._state_file}. "
                "Try a lower learning rate, a longer warm-up, gradient clipping, or precision 'no'"
            )

    def _evaluate_and_keep(self, bar: "tqdm[NoReturn]") -> None:
        """Evaluate, keep the weights if they are the best, and save the state; a signal puts the evaluation off."""
        generators = generator_states(self.accelerator.device)
        try:
            metrics = {f"val/{name}": value for name, value in self.evaluate(self.val_data).items()}
        except Stopped:
            set_generator_states(generators, self.accelerator.device)
            self._save_and_stop()
        self._record(metrics)
        if self.monitor.update(metrics) and self.accelerator.is_main_process:
            checkpoint.save_weights(self.run.best_weights, self._bare_model, {"step": self.step} | metrics)
        shown = f"{self.monitor.metric} {metrics[self.monitor.metric]:.4f}"
        bar.set_postfix_str(", ".join(filter(None, (self._training_figures, shown))))
        self._evaluation_due = False
        self._save_state()
        if self._finished and self.accelerator.is_main_process and math.isfinite(metrics["val/loss"]):
            self._state_file.proven()

    def _log_training(self, since: float, bar: "tqdm[NoReturn]") -> float:
        means = all_figures(self.objective, self._meter.means())
        self._meter.reset()
        now = time.perf_counter()
        rate = self.optimizer.param_groups[0]["lr"]
        self._record({f"train/{name}": value for name, value in means.items()} | {"lr": rate, "seconds": now - since})
        self._training_figures = ", ".join(f"{name} {value:.4f}" for name, value in means.items())
        bar.set_postfix_str(self._training_figures)
        return now

    def _record(self, values: dict[str, float]) -> None:
        self._history.add(self.step, values)
        self._curves.add(self.step, values)

    def _progress(self) -> "tqdm[NoReturn]":
        return tqdm(
            initial=self.step,
            total=self.pace.total_steps,
            unit="step",
            desc=self.run.path.parent.name,
            dynamic_ncols=True,
            disable=not self.accelerator.is_main_process,
        )

    def _save_state(self) -> None:
        own = generator_states(self.accelerator.device)
        generators = gather_object([own])  # every process draws its own random numbers
        self._saved_at = time.monotonic()
        if not self.accelerator.is_main_process:
            return
        tensors, numbers = tensors_of(self._bare_model, self.optimizer, generators)
        note = {
            "step": self.step,
            "processes": self.accelerator.num_processes,
            "monitor": self.monitor.state(),
            "meter": {name: pair.tolist() for name, pair in self._meter.sums().items()},
            "optimizer": numbers,
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else {},
            "evaluation_due": self._evaluation_due,
        }
        self._history.write()
        self._state_file.save(tensors, note)

    def _restore(self) -> None:
        """Continue from the run's saved state, if there is one."""
        path = self.run.last_state
        if not path.exists():
            seed_everything(self.seed + self.accelerator.process_index)
            return
        tensors, note = load_state(path, self.accelerator.num_processes)
        put_back(tensors, note["optimizer"], self._bare_model, self.optimizer, path)
        if self.accelerator.scaler and note["scaler"]:  # empty if the precision was another
            self.accelerator.scaler.load_state_dict(note["scaler"])
        for name, value in note["monitor"].items():
            setattr(self.monitor, name, value)
        self._meter.restore(note["meter"], self.accelerator.device)
        self.step = note["step"]
        self._evaluation_due = note.get("evaluation_due", False)
        try:
            self._history = MetricsFile(self.run.metrics, last_step=self.step)
        except (KeyError, TypeError, ValueError):
            raise CheckpointError(f"{self.run.metrics} is no metrics.csv: it needs a step in every row") from None
        own = checkpoint.without_prefix(f"generator.{self.accelerator.process_index}", tensors)
        set_generator_states(own, self.accelerator.device)
