"""The training loop: update, evaluate, keep the best weights, save the state, stop on a loss that is not finite."""

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

import my_custom_ai.custom_train.checkpoint as checkpoint  # "from ... import" would import this module: a cycle
from my_custom_ai.custom_train.beginning import check_arguments, new_run, prepared
from my_custom_ai.custom_train.data import TrainingBatches, batches_of_process, evaluation_batches
from my_custom_ai.custom_train.devices import check_installed, start
from my_custom_ai.custom_train.errors import CheckpointError, NonFiniteLoss
from my_custom_ai.custom_train.evaluation import evaluate, metrics_of_first_examples
from my_custom_ai.custom_train.gradients import accumulate_gradients
from my_custom_ai.custom_train.monitor import Monitor
from my_custom_ai.custom_train.names import Parallel
from my_custom_ai.custom_train.objective import Objective, all_figures
from my_custom_ai.custom_train.pace import Pace
from my_custom_ai.custom_train.progress import progress_bar
from my_custom_ai.custom_train.run_directory import RunDirectory
from my_custom_ai.custom_train.schedules import Schedule, constant
from my_custom_ai.custom_train.sharding import collected, gather, whole
from my_custom_ai.custom_train.state import StateFile, load_state, put_back, put_back_generators, tensors_of
from my_custom_ai.custom_train.stopping import TrainingSignal
from my_custom_ai.utils.meters import Meter, Ratio
from my_custom_ai.utils.seeding import generator_states, seed_everything, set_generator_states
from my_custom_ai.utils.signals import Stopped
from my_custom_ai.utils.trackers import Curves, MetricsFile


class Trainer:
    """Trains any module on any objective. It can be killed at any instant and resumed.

    Args:
        model: the model, on any device; the trainer moves it.
        objective: computes loss and metrics.
        optimizer: over the model's parameters; its learning rates are the peak of the schedule. See
            :func:`~my_custom_ai.custom_train.optimizers.build_optimizer`.
        train_data: a dataset with a length; see :class:`~my_custom_ai.custom_train.data.TrainingBatches`.
        val_data: validation data, which selects the best weights; must not be the test data.
        pace: length, batch sizes and intervals.
        run: where to write. A path such as "runs/digits" names an experiment: a new ``version_N`` is created in it. A
            :class:`~my_custom_ai.custom_train.run_directory.RunDirectory` is used as it is: if it has a saved state,
            :meth:`fit` resumes from it.
        schedule: factor of the learning rates at each step; None: 1 throughout. See
            :mod:`~my_custom_ai.custom_train.schedules`.
        monitor: defines the best weights and early stopping; None: the lowest "val/loss", and no early stopping.
        seed: seed of the data order and of all random numbers in training. Initial weights are drawn earlier; seed
            them with :func:`~my_custom_ai.utils.seeding.seed_everything`.
        parallel: "ddp": each process has all weights; "fsdp": weights, gradients and moments are sharded, see
            :func:`~my_custom_ai.custom_train.sharding.shard`. The same on one process.
        accelerator: from :func:`~my_custom_ai.custom_train.devices.start`; None: the fastest available device.

    Raises:
        ValueError: invalid arguments; nothing was written.
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
        parallel: Parallel = "ddp",
        accelerator: Accelerator | None = None,
    ) -> None:
        check_arguments(model, objective, optimizer, val_data, schedule)
        check_installed(pace.trackers)
        self.accelerator = accelerator or start()
        self.objective = objective
        self.schedule = schedule or constant()
        self._train_data = train_data
        self.val_data = val_data
        self.monitor = monitor or Monitor()
        self.pace = pace
        self.seed = seed
        self.step = 0  # the number of updates done
        self._training_figures = ""  # last row of training figures, for the progress bar
        self._meter = Meter()  # sums over all processes' batches since the last row of training figures
        self._peak_rates = [group["lr"] for group in optimizer.param_groups]
        self._deal(self.accelerator.num_processes)
        pace_settings = asdict(pace) | {"trackers": list(pace.trackers)}
        settings = {"seed": seed, "pace": pace_settings, "monitor": self.monitor.settings()}
        self.run = run if isinstance(run, RunDirectory) else new_run(Path(run), settings, self.accelerator)
        self._history = MetricsFile(self.run.metrics)
        self._state_file = StateFile(self.run.last_state)
        self._saved_at = time.monotonic()
        self._evaluation_due = False  # whether the current weights are still to be evaluated
        self._signal = TrainingSignal()
        self._common_requests = torch.zeros(2)  # summed over processes, see _own_requests
        self.model, self.optimizer = prepared(model, optimizer, self.accelerator, parallel)
        self._parameters = list(self.model.parameters())

    def _deal(self, shares: int, saved: Path | None = None) -> None:
        """Deal the batches of a training that began on ``shares`` processes, as ``saved`` says, to those of today."""
        self.shares = shares  # the number of processes on which the training began, which defines its updates
        processes = self.accelerator.num_processes
        self._parts = batches_of_process(shares, self.pace.accumulate, processes, saved)
        self._batches = TrainingBatches(
            self._train_data,
            batch_size=self.pace.batch_size,
            batch_tokens=self.pace.batch_tokens,
            similar_sizes=self.pace.similar_sizes,
            seed=self.seed,
            rank=self.accelerator.process_index,
            world_size=processes,
            shares=shares,
            num_workers=self.pace.num_workers,
            pin_memory=self._pin_memory,
        )

    def fit(self, begin: Callable[[], None] | None = None) -> None:
        """Train until the last step, the monitor's target, or the end of its patience.

        Args:
            begin: called after the saved state, if any, was loaded.

        Raises:
            NonFiniteLoss: the loss or its gradient is not finite; raised before the weights are updated with it.
            Stopped: on Ctrl-C, SIGTERM, SIGHUP or SIGUSR1, after the update in progress is done and everything saved.
            CheckpointError: the saved state is damaged, or of another model.
            ValueError: before the first update: the objective's result does not follow
                :class:`~my_custom_ai.custom_train.objective.Objective`, its loss has no gradient, or an evaluation does
                not return the monitored metric.
        """
        with checkpoint.reading_state(self.run.last_state):
            self._restore()
        if begin is not None:
            begin()
        if not self._finished:
            self._try_evaluation()
        if not self.run.last_state.exists():
            self._save_state()  # a state to go back to if the first updates fail
        self._curves = Curves(self.pace.trackers if self.accelerator.is_main_process else (), self.run.path, self.step)
        try:
            with progress_bar(self.run.path.parent.name, self.step, self.pace, self.accelerator) as bar, self._signal:
                self._train(bar)
                self._signal.stop_if_asked(self.accelerator, f"all {self.step:,} steps are done and saved")
        finally:
            self._curves.close()

    def _train(self, bar: "tqdm[NoReturn]") -> None:
        """Run the remaining updates, with logging, evaluation and saving in between."""
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
        """Save the state if a save is due (a due evaluation will save anyway); stop if a signal asked for it."""
        several = self.accelerator.num_processes > 1
        stop, save = self._common_requests.tolist() if several else self._own_requests()
        if stop:
            self._save_and_stop()
        if save or (self.step % self.pace.save_every == 0 and not self._evaluation_due):
            self._save_state()

    def _own_requests(self) -> tuple[bool, bool]:
        """Whether a signal asked this process to stop, and whether it is the main one and ``save_minutes`` are over."""
        save = time.monotonic() - self._saved_at > 60 * self.pace.save_minutes
        return self._signal.number is not None, save and self.accelerator.is_main_process

    def _save_and_stop(self) -> NoReturn:
        self._save_state()
        raise self._signal.stopped(f"saved after step {self.step:,} of {self.pace.total_steps:,}") from None

    def updates(self) -> Iterator[dict[str, Ratio]]:
        """Endless iterator from the current step on: each ``next`` does one update of the weights.

        Yields the totals and counts of the update's loss and metrics. Writes no files.
        """
        stream = self._batches.starting_at(self.step * self._parts)
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
        """Each metric's mean over all examples of ``data``, each counted once, on all processes together.

        Args:
            data: a dataset with a length.
            title: title of the progress bar; None: no progress bar.
            max_batches: maximum number of batches per process; None: the pace's ``max_eval_batches``.
            intervals: see :func:`~my_custom_ai.custom_train.evaluation.evaluate`.
        """
        model = self.accelerator.unwrap_model(self.model)  # keeps autocast, but not DDP and its synchronisation
        batches = evaluation_batches(
            data,
            batch_size=self.pace.eval_batch_size,
            similar_sizes=self.pace.similar_sizes,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
            num_workers=self.pace.num_workers,
            pin_memory=self._pin_memory,
        )
        count = min(len(batches), max_batches or self.pace.max_eval_batches or len(batches))
        hidden = title is None or not self.accelerator.is_main_process
        some = tqdm(islice(batches, count), title, count, unit="batch", dynamic_ncols=True, disable=hidden)
        with whole(model):
            return evaluate(model, self.objective, some, self.accelerator, intervals=intervals, signal=self._signal)

    def load_best(self) -> None:
        """Load the best weights of the run into the model; if it is sharded, all of them in every process.

        Raises:
            NonFiniteLoss: there are none, because the monitored metric was nan in every evaluation.
        """
        self.accelerator.wait_for_everyone()
        if not self.run.best_weights.exists():
            raise NonFiniteLoss(f"no best weights were found: {self.monitor.metric} was nan in every evaluation")
        checkpoint.load_weights(self.run.best_weights, self._bare_model)
        gather(self._bare_model)

    @property
    def seconds(self) -> float:
        """Training time in seconds up to the last logged row, including the time before a resume."""
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
        with whole(self._bare_model):
            figures = metrics_of_first_examples(self._bare_model, self.objective, self.val_data, self.accelerator)
        self.monitor.check([f"val/{name}" for name in figures])

    def _update(self, stream: Iterator[Any]) -> dict[str, Ratio]:
        """One optimiser step on ``accumulate`` batches of every process; returns the sums over all of them."""
        self.model.train()
        for group, rate in zip(self.optimizer.param_groups, self._peak_rates, strict=True):
            group["lr"] = rate * self.schedule(self.step)
        ratios = self._accumulate_gradients(stream)
        norm = self.accelerator.clip_grad_norm_(self._parameters, self.pace.clip_norm or math.inf)
        if not self.accelerator.scaler:  # the scaler of fp16 itself skips updates whose gradient overflows
            self._check_finite("gradient's norm", collected({"norm": norm}, keep=True)["norm"])
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return ratios

    def _accumulate_gradients(self, stream: Iterator[Any]) -> dict[str, Ratio]:
        """Compute the gradient of an update; return the sums over the batches of every process."""
        sums = accumulate_gradients(
            stream,
            self._parts,
            accelerator=self.accelerator,
            model=self.model,
            parameters=self._parameters,
            objective=self.objective,
            sums_over_processes=self._sums_over_processes,
        )
        # the sums are the same on all processes, so all raise together and none waits for another; checked after
        # backward, since reading the value waits for the GPU
        self._check_finite("loss", Ratio(*sums["loss"]).value)
        return {name: Ratio(*pair) for name, pair in sums.items()}

    def _sums_over_processes(self, meter: Meter) -> dict[str, torch.Tensor]:
        sums = meter.sums()
        if self.accelerator.num_processes == 1:
            return sums
        pairs = [pair.to(self.accelerator.device) for pair in sums.values()]
        requests = torch.stack([pairs[0].new_full((), request) for request in self._own_requests()])
        *pairs, requests = self.accelerator.reduce(torch.stack([*pairs, requests]), reduction="sum")
        self._common_requests = requests  # read only after the update, since reading waits for the GPU
        return dict(zip(sums, pairs, strict=True))

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
        """Evaluate, keep the weights if they are the best, and save the state; a signal postpones the evaluation."""
        generators = generator_states(self.accelerator.device)
        try:
            metrics = {f"val/{name}": value for name, value in self.evaluate(self.val_data).items()}
        except Stopped:
            set_generator_states(generators, self.accelerator.device)
            self._save_and_stop()
        self._record(metrics)
        if self.monitor.update(metrics):
            weights = collected(checkpoint.weights(self._bare_model), keep=self.accelerator.is_main_process)
            if self.accelerator.is_main_process:
                checkpoint.save_tensors(self.run.best_weights, weights, {"step": self.step} | metrics)
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

    def _save_state(self) -> None:
        own = generator_states(self.accelerator.device)
        generators = gather_object([own])  # each process has its own generator states
        self._saved_at = time.monotonic()
        tensors, numbers = tensors_of(self._bare_model, self.optimizer, generators)
        tensors = collected(tensors, keep=self.accelerator.is_main_process)
        if not self.accelerator.is_main_process:
            return
        note = {
            "step": self.step,
            "processes": self.shares,
            "monitor": self.monitor.state(),
            "meter": {name: pair.tolist() for name, pair in self._meter.sums().items()},
            "optimizer": numbers,
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else {},
            "evaluation_due": self._evaluation_due,
        }
        self._history.write()
        self._state_file.save(tensors, note)

    def _restore(self) -> None:
        """Load the run's saved state, if there is one; otherwise seed the generators."""
        path = self.run.last_state
        if not path.exists():
            seed_everything(self.seed + self.accelerator.process_index)
            return
        tensors, note = load_state(path)
        if note["processes"] != self.shares:
            self._deal(note["processes"], path)
        put_back(tensors, note["optimizer"], self._bare_model, self.optimizer, path)
        if self.accelerator.scaler and note["scaler"]:  # empty if the state was saved with another precision
            self.accelerator.scaler.load_state_dict(note["scaler"])
        for name, value in note["monitor"].items():
            setattr(self.monitor, name, value)
        self._meter.restore(note["meter"], self.accelerator.device)
        self.step = note["step"]
        self._evaluation_due = note.get("evaluation_due", False)
        try:
            self._history = MetricsFile(self.run.metrics, last_step=self.step)
        except (KeyError, TypeError, ValueError):
            raise CheckpointError(f"{self.run.metrics}: not a metrics.csv: every row needs a step") from None
        put_back_generators(tensors, (self.seed, self.step), self.accelerator)
