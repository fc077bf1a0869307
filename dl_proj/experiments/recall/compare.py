"""synth_models_comparison.py for associative recall: accuracy against the bytes that decoding keeps of a sequence."""

import csv
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
from dl_proj.figure_style import PAGE, legend_beside, log_ticks, looks_of, style
from dl_proj.pictures import plain, save_for_print
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
    data = found[0].config.data
    chance = 1 / data.n_pairs
    rows = [_row(title, some) | {"chance": chance} for title, some in groups.items()]
    print(markdown([_printed(row, some) for row, some in zip(rows, groups.values(), strict=True)]))
    print(
        f"{data.n_pairs} pairs, {data.length} tokens, {data.vocab_size} symbols; a guess among the values of the "
        f"sequence is right with probability {chance:.4f}"
    )
    table, runs, picture = (config.output_dir / name for name in ("table.csv", "runs.csv", "table.png"))
    write_text(table, csv_text(rows))
    write_text(runs, csv_text([_of_run(title, one) for title, some in groups.items() for one in some]))
    draw_recall(config.output_dir)
    print(f"written: {table}, {runs}, {picture} and .pdf")


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
        "mechanism": some[0].config.model.attention_title,
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


def draw_recall(folder: Path) -> Path:
    """Draw table.png of table.csv and runs.csv, and the same as PDF."""
    table, runs = (_read(folder / name) for name in ("table.csv", "runs.csv"))
    save_for_print(recall_figure(table, runs), folder / "table.png")
    return folder / "table.png"


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def recall_figure(table: Sequence[dict[str, str]], runs: Sequence[dict[str, str]]) -> Figure:
    """Every seed as a small dot, means in full; a line joins what differs in the settings of a mechanism.

    Args:
        table: rows of table.csv; those without a state have no point.
        runs: rows of runs.csv.
    """
    drawn: dict[str, list[tuple[float, float, list[float]]]] = {}
    for row in table:
        if row["state_bytes"]:
            own = [100 * float(run["accuracy"]) for run in runs if run["attention"] == row["attention"]]
            point = float(row["state_bytes"]) / 1024, 100 * float(row["accuracy"]), own
            drawn.setdefault(row["mechanism"], []).append(point)
    looks = looks_of(drawn)
    with style():
        figure = Figure(figsize=(PAGE, 3.0), layout="constrained")
        panel = figure.add_subplot()
        for title, points in drawn.items():
            x, mean, seeds = zip(*points, strict=True)
            panel.plot(x, mean, **looks[title].line() | {"markersize": 6, "label": plain(title)})
            for place, values in zip(x, seeds, strict=True):
                dots = looks[title].line() | {"markersize": 3.5, "linewidth": 0.8, "alpha": 0.5}
                panel.plot([place] * len(values), values, **dots)
        chance = 100 * float(table[0]["chance"])
        panel.axhline(chance, color="0.5", linewidth=1, linestyle=":", label="guessing among the values")
        panel.set_xscale("log", base=2)
        log_ticks(panel.xaxis, _powers_of_two(*panel.get_xlim()))
        panel.set(xlabel="state kept per sequence in decoding (KiB)", ylabel="right answers (%)", ylim=(0, 104))
        several = max((len(own) for points in drawn.values() for *_, own in points), default=1)
        panel.set_title(f"mean of {several} seeds, and each seed as a small dot" if several > 1 else "", loc="left")
        panel.grid(True)
        legend_beside(panel)
    return figure


def _powers_of_two(low: float, high: float) -> list[float]:
    return [2.0**power for power in range(-20, 40) if low <= 2.0**power <= high]
