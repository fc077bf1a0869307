"""synth_models_comparison.py: trained rounds against evaluated rounds, as in the Reformer paper's table 2."""

import csv
import io
from pathlib import Path

from accelerate import Accelerator
from matplotlib.figure import Figure
from tqdm import tqdm

from dl_proj.checkpoint_folder import find_checkpoints, read_config
from dl_proj.cli import CONFIGS
from dl_proj.experiments.copy.objective import CopyObjective
from dl_proj.experiments.copy.settings import SynthComparisonConfig, SynthTrainConfig
from dl_proj.experiments.copy.train import build_copy_model, copy_dataset
from dl_proj.experiments.recall.compare import compare_recall
from dl_proj.figure_style import PAGE, PALE, style
from dl_proj.models.attention_settings import AttentionConfig, AttentionSchema
from dl_proj.models.generation import AutoregressiveModel
from dl_proj.pictures import plain, save_for_print
from dl_proj.settings.errors import ConfigError
from dl_proj.settings.read_yaml import read_yaml
from dl_proj.tables import Row
from my_custom_ai.custom_train import CheckpointError, evaluate, load_weights, start
from my_custom_ai.custom_train.data import evaluation_batches
from my_custom_ai.utils.files import write_text
from my_transformers.full_settings import SharedQKSettings
from my_transformers.lsh.settings import LSHSettings

# Kitaev et al. 2020, table 2: accuracy in percent by how the model was trained (length 1024) and evaluated
PAPER = {
    "full": {"full": 100.0, "LSH-8": 94.8, "LSH-4": 92.5, "LSH-2": 76.9, "LSH-1": 52.5},
    "LSH-4": {"full": 0.8, "LSH-8": 100.0, "LSH-4": 99.9, "LSH-2": 99.4, "LSH-1": 91.9},
    "LSH-2": {"full": 0.8, "LSH-8": 100.0, "LSH-4": 99.9, "LSH-2": 98.1, "LSH-1": 86.8},
    "LSH-1": {"full": 0.8, "LSH-8": 99.9, "LSH-4": 99.6, "LSH-2": 94.8, "LSH-1": 77.9},
}

PAPER_LENGTH = 1024


def compare(config: SynthComparisonConfig) -> None:
    """Evaluate every checkpoint: models of the copy task in every way, those of associative recall as they are.

    Print the table, and write it as table.csv and table.png.

    Raises:
        ConfigError: models of both tasks, or that cannot be compared.
    """
    folders = _find(config.checkpoints)  # all, before the first takes its time
    trained = {name: (folder, read_config(SynthTrainConfig, folder)) for name, folder in folders.items()}
    tasks = {own.data.task: name for name, (_, own) in trained.items()}
    if len(tasks) > 1:
        of_each = ", ".join(f"{name} is of task {task}" for task, name in tasks.items())
        raise ConfigError(f"checkpoints: {of_each}; compare models of one task")
    if "recall" in tasks:
        compare_recall(config, trained)
    else:
        _compare_copies(config, trained)


def _compare_copies(config: SynthComparisonConfig, trained: dict[str, tuple[Path, SynthTrainConfig]]) -> None:
    mistakes = [
        f"{folder}: {mistake}" for folder, own in trained.values() for mistake in _cannot_be_compared(own, config)
    ]
    if mistakes:
        raise ConfigError(*mistakes)
    accelerator = start(config.device)
    models = {name: _load(own, folder / "model.safetensors") for name, (folder, own) in trained.items()}
    ways = ["full", *(f"LSH-{r}" for r in config.eval_rounds)]
    rows: list[Row] = []
    with tqdm(total=len(trained) * len(ways), unit="evaluation", desc="comparison") as bar:
        for name, (_, own) in trained.items():
            scores = {}
            for way, attention in zip(ways, _evaluated_with(own, config), strict=True):
                scores[way] = _accuracy(_with_attention(own, attention, models[name]), own, config, accelerator)
                bar.update()
            rows.append({"checkpoint": name, "trained": _trained_with(own), "length": own.data.length, **scores})
    print(render_table(rows, ways))
    _write_csv(rows, ways, config.output_dir / "table.csv")
    draw_copies(config.output_dir)
    print(f"written: {config.output_dir / 'table.csv'}, {config.output_dir / 'table.png'} and .pdf")


def _find(names: tuple[str, ...]) -> dict[str, Path]:
    """The folders that names mean, all below one that is no model's; of what is not there, how a preset trains it."""
    folders: dict[str, Path] = {}
    mistakes = []
    for name in names:
        try:
            folders |= _named(name)
        except CheckpointError as error:
            presets = [path for path in sorted(CONFIGS.rglob("synth*.yaml")) if _experiment(path) in Path(name).parts]
            training = [f"python synth_train.py --config {path.relative_to(CONFIGS)}" for path in presets]
            problem = f"{name} is not there; {training[0]} trains it" if training else str(error)
            mistakes.append(f"checkpoints: {problem}")
    if mistakes:
        raise ConfigError(*mistakes)
    return folders


def _named(name: str) -> dict[str, Path]:
    """The one model that a name means, or those below a folder."""
    found = find_checkpoints(name)
    return found if name in found else {str(Path(name) / below): folder for below, folder in found.items()}


def _experiment(preset: Path) -> str:
    """The name of a training's folder; an empty one if the file is no training."""
    return read_yaml(preset).get("experiment_name", "")


def _cannot_be_compared(trained: SynthTrainConfig, config: SynthComparisonConfig) -> list[str]:
    if trained.model.attentions is not None:
        return ["trained with attentions of its own in each layer, which are not replaced; use attention: shared_qk"]
    if not isinstance(trained.model.attention.settings, SharedQKSettings | LSHSettings):
        return [f"trained with kind: {trained.model.attention.kind}, which LSH cannot evaluate; use kind: shared_qk"]
    lsh = trained.model.model_copy(update={"attention": _evaluated_with(trained, config)[-1]})
    found = lsh.mistakes_at(trained.data.length - 1, causal=True, grid=False)
    return [mistake.replace("model.attention", "lsh") for mistake in found]


def _evaluated_with(trained: SynthTrainConfig, config: SynthComparisonConfig) -> list[AttentionConfig]:
    own = trained.model.attention
    lsh = own if isinstance(own.settings, LSHSettings) else config.lsh
    return [
        AttentionSchema.of(SharedQKSettings()),
        *(lsh.model_copy(update={"eval_rounds": r}) for r in config.eval_rounds),
    ]


def _trained_with(trained: SynthTrainConfig) -> str:
    attention = trained.model.attention.settings
    return attention.title if isinstance(attention, LSHSettings) else "full"


def _load(trained: SynthTrainConfig, weights: Path) -> AutoregressiveModel:
    model = build_copy_model(trained)
    load_weights(weights, model)
    return model


def _with_attention(
    trained: SynthTrainConfig, attention: AttentionConfig, model: AutoregressiveModel
) -> AutoregressiveModel:
    """A model with other attention and the same weights: they fit any that shares queries and keys."""
    other = trained.model_copy(update={"model": trained.model.model_copy(update={"attention": attention})})
    built = build_copy_model(other)
    built.load_state_dict(model.state_dict())
    return built


def _accuracy(
    model: AutoregressiveModel, trained: SynthTrainConfig, config: SynthComparisonConfig, accelerator: Accelerator
) -> float:
    """In percent, on test sequences."""
    data = copy_dataset(trained.data, "test", config.n_test, trained.seed)
    batches = evaluation_batches(data, batch_size=config.batch_size)
    objective = CopyObjective(trained.data.length)
    return 100 * evaluate(model.to(accelerator.device), objective, batches, accelerator, finite=True)["accuracy"]


def render_table(rows: list[Row], ways: list[str]) -> str:
    """Ours, with the paper's figure for the same row and column in brackets."""
    header = ["trained", "length", *(f"eval {way}" for way in ways)]
    lines = [[row["trained"], str(row["length"]), *(_cell(row, way) for way in ways)] for row in rows]
    widths = [max(len(line[i]) for line in [header, *lines]) for i in range(len(header))]
    table = ["  ".join(map(str.rjust, line, widths)) for line in [header, *lines]]
    table.append("accuracy in percent on the second word; in brackets: Kitaev et al. 2020, table 2, at length 1024")
    return "\n".join(table)


def _paper(row: Row, way: str) -> float | None:
    return PAPER.get(row["trained"], {}).get(way)


def _cell(row: Row, way: str) -> str:
    paper = _paper(row, way)
    return f"{row[way]:.2f} ({paper:.1f})" if paper is not None else f"{row[way]:.2f}"


def _write_csv(rows: list[Row], ways: list[str], path: Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["checkpoint", "trained", "length", "evaluated", "accuracy", "paper"])
    for row in rows:
        for way in ways:
            paper = _paper(row, way)
            start_of_line = [row["checkpoint"], row["trained"], row["length"], way]
            writer.writerow([*start_of_line, f"{row[way]:.4f}", "" if paper is None else paper])
    write_text(path, text.getvalue())


def draw_copies(folder: Path) -> Path:
    """Draw table.png of table.csv, and the same as PDF."""
    with (folder / "table.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    save_for_print(copies_figure(rows), folder / "table.png")
    return folder / "table.png"


def copies_figure(rows: list[dict[str, str]]) -> Figure:
    """A heat map of table.csv; models of the paper's length have its figures in brackets."""
    ways = list(dict.fromkeys(row["evaluated"] for row in rows))
    names = list(dict.fromkeys(row["checkpoint"] for row in rows))
    cells = {(row["checkpoint"], row["evaluated"]): row for row in rows}
    lengths = {row["length"] for row in rows}
    with style():
        figure = Figure(figsize=(PAGE, 0.42 * len(names) + 1.0), layout="constrained")
        panel = figure.add_subplot()
        shown = [[float(cells[name, way]["accuracy"]) for way in ways] for name in names]
        image = panel.imshow(shown, vmin=0, vmax=100, cmap=PALE, aspect="auto")
        for i, name in enumerate(names):
            for j, way in enumerate(ways):
                row = cells[name, way]
                beside = row["paper"] if int(row["length"]) == PAPER_LENGTH else ""
                text = f"{shown[i][j]:.2f}" + (f"\n({float(beside):.1f})" if beside else "")
                panel.text(j, i, text, ha="center", va="center", fontsize=7)
        trained = [cells[name, ways[0]] for name in names]
        several = len(lengths) > 1
        labels = [plain(f"{row['trained']}, {row['length']} tokens" if several else row["trained"]) for row in trained]
        panel.set_xticks(range(len(ways)), ways)
        panel.set_yticks(range(len(names)), labels)
        panel.tick_params(length=0)
        panel.spines[:].set_visible(False)
        panel.set(xlabel="evaluated with", ylabel="trained with", title=_title(lengths))
        figure.colorbar(image, ax=panel, pad=0.015, aspect=12).set_label("accuracy (%)")
    return figure


def _title(lengths: set[str]) -> str:
    words = "copy task" if len(lengths) > 1 else f"copy task, {int(*lengths):,} tokens"
    return f"{words}; in brackets: Kitaev et al. 2020" if str(PAPER_LENGTH) in lengths else words
