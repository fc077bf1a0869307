"""synth_models_comparison.py for associative recall: accuracy against the size of the decoding state."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from matplotlib.figure import Figure
from tqdm import tqdm

from dl_proj.experiments.copy.settings import SynthComparisonConfig, SynthTrainConfig
from dl_proj.experiments.copy.train import build_copy_model, can_decode, recall_dataset
from dl_proj.experiments.recall.objective import RecallObjective
from dl_proj.pictures import save_figure, style_of
from dl_proj.settings.errors import ConfigError
from dl_proj.settings.load import differences
from dl_proj.tables import Row, csv_text, markdown, mean_and_deviation
from my_custom_ai.custom_train import evaluate, load_weights, start
from my_custom_ai.custom_train.checkpoint import count_parameters
from my_custom_ai.custom_train.data import evaluation_batches
from my_custom_ai.utils.files import write_text

_PER_RUN = {"seed", "experiment_name", "runs_dir", "init_from"}  # differ between runs of one variant


@dataclass(frozen=True)
class Measured:
    """A trained model's test figures.

    Args:
        checkpoint: its name.
        config: its training configuration.
        accuracy: fraction of correct answers.
        state: bytes per sequence that decoding keeps; None if it cannot decode.
        parameters: number of parameters.
    """

    checkpoint: str
    config: SynthTrainConfig
    accuracy: float
    state: int | None
    parameters: int


def compare_recall(config: SynthComparisonConfig, trained: dict[str, tuple[Path, SynthTrainConfig]]) -> None:
    """Measure every model on its test sequences; print a row per variant, write table.csv, runs.csv and table.png.

    Runs that differ only in their seed are one variant.

    Raises:
        ConfigError: the models were trained on different kinds of sequences.
    """
    _check_same_task({name: own for name, (_, own) in trained.items()})
    accelerator = start(config.device)
    found = [
        _measure(name, folder, own, config, accelerator)
        for name, (folder, own) in tqdm(trained.items(), unit="model", desc="comparison")
    ]
    groups = _grouped(found)
    rows = [_row(title, some) for title, some in groups.items()]
    print(markdown([_printed(row, some) for row, some in zip(rows, groups.values(), strict=True)]))
    data = found[0].config.data
    chance = 1 / data.n_pairs
    print(
        f"{data.n_pairs} pairs, {data.length} tokens, {data.vocab_size} symbols; guessing one of the sequence's values "
        f"is correct with probability {chance:.4f}"
    )
    table, runs, picture = (config.output_dir / name for name in ("table.csv", "runs.csv", "table.png"))
    write_text(table, csv_text(rows))
    write_text(runs, csv_text([_run_row(title, one) for title, some in groups.items() for one in some]))
    _draw(groups, chance, picture)
    print(f"written: {table}, {runs}, {picture}")


def _check_same_task(trained: dict[str, SynthTrainConfig]) -> None:
    """Check that all models were trained on the same kind of sequences.

    Raises:
        ConfigError: a line for each data setting in which a model differs from the first.
    """
    (first, of_first), *others = trained.items()
    lines = []
    for name, own in others:
        lines += [
            f"checkpoints: {name} has data.{key} {theirs}, but {first} has {ours}: they cannot be compared"
            for key, ours, theirs in differences(_sequences(of_first), _sequences(own))
        ]
    if lines:
        raise ConfigError(*lines)


def _sequences(config: SynthTrainConfig) -> dict[str, Any]:
    """Return the settings of a model's sequences, without their number."""
    return config.data.model_dump(exclude={"n_train", "fresh", "n_val", "n_test"})


def _measure(
    name: str, folder: Path, own: SynthTrainConfig, config: SynthComparisonConfig, accelerator: Accelerator
) -> Measured:
    model = build_copy_model(own)
    load_weights(folder / "model.safetensors", model)
    data = recall_dataset(own.data, "test", config.n_test, own.seed)
    batches = evaluation_batches(data, batch_size=config.batch_size)
    accuracy = evaluate(model.to(accelerator.device), RecallObjective(), batches, accelerator)["accuracy"]
    state = model.eval().state_size(own.data.n_inputs) if can_decode(own) else None
    return Measured(name, own, accuracy, state, count_parameters(model))


def _grouped(found: Iterable[Measured]) -> dict[str, list[Measured]]:
    """Group models by variant; its title is the attention, plus the settings that distinguish it from its namesakes."""
    variants: dict[str, list[Measured]] = {}
    for one in found:
        variants.setdefault(one.config.model_dump_json(exclude=_PER_RUN), []).append(one)
    by_attention: dict[str, list[list[Measured]]] = {}
    for some in variants.values():
        by_attention.setdefault(some[0].config.model.attention_title, []).append(some)
    groups: dict[str, list[Measured]] = {}
    for title, alike in by_attention.items():
        for some in alike:
            groups[", ".join([title, *_particular(some[0], [other[0] for other in alike])])] = some
    return dict(sorted(groups.items(), key=lambda item: (item[1][0].state is None, item[1][0].state or 0)))


def _particular(one: Measured, alike: Sequence[Measured]) -> list[str]:
    """Return the settings in which a model differs from others of the same title, such as "n_features 64"."""
    own = one.config.model_dump(mode="json", exclude=_PER_RUN)
    keys = dict.fromkeys(
        key
        for other in alike
        for key, _, _ in differences(
            _flat_lists(own), _flat_lists(other.config.model_dump(mode="json", exclude=_PER_RUN))
        )
    )
    return [f"{key.rpartition('.')[2]} {_at(_flat_lists(own), key)}" for key in keys]


def _flat_lists(value: Any) -> Any:
    """Turn lists of mappings into mappings by index, so that their differences have keys."""
    if isinstance(value, dict):
        return {key: _flat_lists(one) for key, one in value.items()}
    if isinstance(value, list) and any(isinstance(one, dict) for one in value):
        return {str(number): _flat_lists(one) for number, one in enumerate(value)}
    return value


def _at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def _row(title: str, some: Sequence[Measured]) -> Row:
    accuracies = [one.accuracy for one in some]
    return {
        "attention": title,
        "seeds": len(some),
        "state_bytes": some[0].state,
        "parameters": some[0].parameters,
        "accuracy": statistics.fmean(accuracies),
        "accuracy std": statistics.stdev(accuracies) if len(some) > 1 else None,
        "accuracy best": max(accuracies),
    }


def _printed(row: Row, some: Sequence[Measured]) -> Row:
    state = "cannot decode" if row["state_bytes"] is None else f"{row['state_bytes']:,}"
    return {
        "attention": row["attention"],
        "seeds": row["seeds"],
        "state, bytes": state,
        "parameters": row["parameters"],
        "accuracy": mean_and_deviation([one.accuracy for one in some]),
        "best seed": row["accuracy best"],
    }


def _run_row(title: str, one: Measured) -> Row:
    return {
        "attention": title,
        "checkpoint": one.checkpoint,
        "seed": one.config.seed,
        "state_bytes": one.state,
        "accuracy": one.accuracy,
    }


def _draw(groups: dict[str, list[Measured]], chance: float, path: Path) -> None:
    """Draw means and deviations over seeds, with a hollow marker for the best; lines join variants of a mechanism."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    panel = figure.add_subplot()
    drawn: dict[str, list[tuple[float, float, float, float]]] = {}
    for some in groups.values():
        if (state := some[0].state) is not None:
            values = [100 * one.accuracy for one in some]
            deviation = statistics.stdev(values) if len(values) > 1 else 0.0
            title = some[0].config.model.attention_title
            drawn.setdefault(title, []).append((state / 1024, statistics.fmean(values), deviation, max(values)))
    for number, (title, points) in enumerate(drawn.items()):
        colour, dashes, marker = style_of(number)
        x, mean, deviations, best = zip(*points, strict=True)
        panel.errorbar(
            x, mean, deviations, color=colour, linestyle=dashes, marker=marker, markersize=5, capsize=3, label=title
        )
        panel.plot(x, best, color=colour, linestyle="", marker=marker, markersize=8, markerfacecolor="none")
    panel.axhline(100 * chance, color="0.5", linewidth=1, linestyle=":", label="guessing a value of the sequence")
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    seeds = max(map(len, groups.values()))
    panel.set(
        xlabel="decoding state per sequence (KiB)",
        ylabel="accuracy (%)" + (f"\nmean ± deviation of {seeds} seeds; hollow: best seed" if seeds > 1 else ""),
        ylim=(0, 104),
    )
    panel.grid(alpha=0.3)
    panel.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, fontsize="small")
    save_figure(figure, path)
