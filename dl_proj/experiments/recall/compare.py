"""synth_models_comparison.py for associative recall: accuracy against the bytes that decoding keeps of a sequence."""

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

_OF_TRIAL = {"seed", "experiment_name", "runs_dir", "init_from"}  # differ between runs of one variant


@dataclass(frozen=True)
class Measured:
    """A trained model's test figures.

    Args:
        checkpoint: its name.
        config: that it was trained with.
        accuracy: share of right answers.
        state: bytes that decoding keeps of a sequence; None if it cannot decode.
        parameters: of the model.
    """

    checkpoint: str
    config: SynthTrainConfig
    accuracy: float
    state: int | None
    parameters: int


def compare_recall(config: SynthComparisonConfig, trained: dict[str, tuple[Path, SynthTrainConfig]]) -> None:
    """Measure every model on its test sequences; print a row for each variant, write table.csv, runs.csv, table.png.

    Runs that differ in their seed alone are one variant. Only models of one task can be compared.

    Raises:
        ConfigError: their sequences differ.
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
        f"{data.n_pairs} pairs, {data.length} tokens, {data.vocab_size} symbols; a guess among the values of the "
        f"sequence is right with probability {chance:.4f}"
    )
    table, runs, picture = (config.output_dir / name for name in ("table.csv", "runs.csv", "table.png"))
    write_text(table, csv_text(rows))
    write_text(runs, csv_text([_of_run(title, one) for title, some in groups.items() for one in some]))
    _draw(groups, chance, picture)
    print(f"written: {table}, {runs}, {picture}")


def _check_same_task(trained: dict[str, SynthTrainConfig]) -> None:
    """Make sure that all models were trained on sequences of one kind.

    Raises:
        ConfigError: a line for each setting of the sequences in which a model differs from the first.
    """
    (first, of_first), *others = trained.items()
    lines = []
    for name, own in others:
        lines += [
            f"checkpoints: {name} has data.{key} {there}, but {first} {here}: they cannot be compared"
            for key, here, there in differences(_sequences(of_first), _sequences(own))
        ]
    if lines:
        raise ConfigError(*lines)


def _sequences(config: SynthTrainConfig) -> dict[str, Any]:
    """What a model's sequences are like, however many of them it was trained on."""
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
    """Models by variant, whose title names its attention and the settings in which its namesakes differ."""
    variants: dict[str, list[Measured]] = {}
    for one in found:
        variants.setdefault(one.config.model_dump_json(exclude=_OF_TRIAL), []).append(one)
    by_attention: dict[str, list[list[Measured]]] = {}
    for some in variants.values():
        by_attention.setdefault(some[0].config.model.attention_title, []).append(some)
    groups: dict[str, list[Measured]] = {}
    for title, alike in by_attention.items():
        for some in alike:
            groups[", ".join([title, *_particular(some[0], [other[0] for other in alike])])] = some
    return dict(sorted(groups.items(), key=lambda item: (item[1][0].state is None, item[1][0].state or 0)))


def _particular(one: Measured, alike: Sequence[Measured]) -> list[str]:
    """The settings of a model that some of those with its title have otherwise, as in "n_features 64"."""
    own = one.config.model_dump(mode="json", exclude=_OF_TRIAL)
    keys = dict.fromkeys(
        key
        for other in alike
        for key, _, _ in differences(
            _flat_lists(own), _flat_lists(other.config.model_dump(mode="json", exclude=_OF_TRIAL))
        )
    )
    return [f"{key.rpartition('.')[2]} {_at(_flat_lists(own), key)}" for key in keys]


def _flat_lists(value: Any) -> Any:
    """Lists of mappings as mappings by number, so that their differences have keys too."""
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


def _of_run(title: str, one: Measured) -> Row:
    return {
        "attention": title,
        "checkpoint": one.checkpoint,
        "seed": one.config.seed,
        "state_bytes": one.state,
        "accuracy": one.accuracy,
    }


def _draw(groups: dict[str, list[Measured]], chance: float, path: Path) -> None:
    """Means and deviations over seeds, hollow the best seed; a line joins what differs in settings of a mechanism."""
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
    panel.axhline(100 * chance, color="0.5", linewidth=1, linestyle=":", label="a value of the sequence, guessed")
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    seeds = max(map(len, groups.values()))
    panel.set(
        xlabel="state kept of a sequence in decoding, KiB",
        ylabel="right answers, %" + (f"\nmean ± deviation of {seeds} seeds; hollow: the best" if seeds > 1 else ""),
        ylim=(0, 104),
    )
    panel.grid(alpha=0.3)
    panel.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, fontsize="small")
    save_figure(figure, path)
