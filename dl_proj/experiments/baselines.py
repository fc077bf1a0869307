"""baselines.py: baselines that any model of an experiment must beat, measured on the same data."""

from dl_proj.experiments.base_file import base_file, base_task
from dl_proj.experiments.baselines_settings import BaselinesConfig
from dl_proj.experiments.language.baselines import text_baselines
from dl_proj.experiments.language.settings import LanguageTrainConfig
from dl_proj.experiments.sweep import sweep
from dl_proj.experiments.sweep_settings import SweepConfig, nested
from dl_proj.experiments.translation.baselines import translation_baselines
from dl_proj.experiments.translation.settings import TranslationTrainConfig
from dl_proj.settings.errors import ConfigError
from dl_proj.settings.load import load_config
from dl_proj.tables import Row, csv_text, markdown
from my_custom_ai.utils.files import write_text

_FOR_IMAGES = {"linear": {"model.kind": "linear"}, "cnn": {"model.kind": "cnn"}}
_MEASURED = ("classification", "language", "translation")


def measure_baselines(config: BaselinesConfig) -> None:
    """Print a table of baselines and write it to baselines.csv; image baselines are trained as a sweep.

    Raises:
        ConfigError: the experiment has no baselines, or its settings are invalid.
    """
    task = base_task(config.base, config.common)
    if task not in _MEASURED:
        raise ConfigError(f"base: {config.base}: task {task} has no baselines, must be one of {', '.join(_MEASURED)}")
    _check_effect(config, task)
    if task == "classification":
        common = {"task": task} | config.common
        sweep(
            SweepConfig(
                base=config.base,
                variants=_FOR_IMAGES,
                common=common,
                seeds=config.seeds,
                output_dir=config.output_dir,
            )
        )
        return
    rows = _rows(config, task)
    print(markdown([{name.replace("/", " "): v for name, v in row.items() if not _is_long(name)} for row in rows]))
    for row in rows:
        if "source" in row:
            print(f"{row['baseline']}: {row['source']}; {row['differs']}")
    path = config.output_dir / "baselines.csv"
    write_text(path, csv_text(rows))
    print(f"written: {path}")


def _is_long(column: str) -> bool:
    """Whether only the CSV has the column; the origin of published figures is printed below the table."""
    return column in ("device", "source", "differs") or column.endswith("signature")


def _rows(config: BaselinesConfig, task: str) -> list[Row]:
    path, overrides = base_file(config.base), nested(config.common)
    if task == "language":
        return text_baselines(load_config(LanguageTrainConfig, path, overrides, origin="common"), config.max_order)
    return translation_baselines(load_config(TranslationTrainConfig, path, overrides, origin="common"))


def _check_effect(config: BaselinesConfig, task: str) -> None:
    task_of = {"seeds": "classification", "max_order": "language"}
    found = [
        f"{name}: {getattr(config, name)} has no effect on the baselines of task {task}"
        for name, needed in task_of.items()
        if task != needed and getattr(config, name) != BaselinesConfig.model_fields[name].default
    ]
    if found:
        raise ConfigError(*found)
