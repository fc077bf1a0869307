"""What every script does with its arguments and with its user's mistakes."""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from dl_proj.settings.errors import ConfigError
from dl_proj.settings.load import complain, differences, load_config, parse_flags, shown
from my_custom_ai.custom_train import CheckpointError, NonFiniteLoss, RunDirectory, SetupError

Config = TypeVar("Config", bound=BaseModel)

CONFIGS = Path(__file__).parent / "configs"
_MAY_CHANGE = {"train.device", "train.num_workers", "train.trackers", "runs_dir"}  # none changes what is computed


def run_script(main: Callable[[list[str]], None]) -> None:
    """Call ``main`` with the flags; a user's mistake ends with exit code 2 and a line each, a failed run with 1."""
    # accelerate's and torch's advice to their callers is nothing that a user of a script can act on
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(torch|accelerate)\.")
    try:
        main(sys.argv[1:])
    except ConfigError as error:
        complain(error.lines)
        raise SystemExit(2) from None
    except (CheckpointError, SetupError) as error:
        complain((str(error),))
        raise SystemExit(2) from None
    except (NonFiniteLoss, OSError) as error:
        complain((f"stopped: {error}",))
        raise SystemExit(1) from None
    except KeyboardInterrupt as error:
        complain((str(error) or "interrupted",))
        raise SystemExit(130) from None


def _preset(name: str) -> Path:
    """A preset's path, as short as a user in the repository's folder would write it."""
    path = CONFIGS / name
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def config_from(schema: type[Config], argv: list[str], preset: str) -> Config:
    """The configuration of a script that resumes nothing: ``--config`` or the preset, and flags over it."""
    return config_and_words(schema, argv, preset, words=None)[0]


def config_and_words(
    schema: type[Config], argv: list[str], preset: str, *, words: str | None
) -> tuple[Config, list[str]]:
    """The same, and the arguments that are no flags, which ``--help`` calls ``words``; None allows none."""
    options, overrides = parse_flags(schema, argv, _preset(preset), words=words)
    return load_config(schema, options.config or _preset(preset), overrides), options.words


def training_config(schema: type[Config], argv: list[str], preset: str) -> tuple[Config, RunDirectory | None]:
    """The configuration of a training, and the run that it continues, if ``--resume`` was given.

    A resumed run keeps the settings that it was started with: a flag or ``--config`` that says otherwise is a mistake,
    except for settings that change nothing that is computed.
    """
    options, overrides = parse_flags(schema, argv, _preset(preset))
    path = options.config or _preset(preset)
    if options.resume is None:
        return load_config(schema, path, overrides), None
    run = _run_to_resume(schema, options.resume, path, overrides)
    config = load_config(schema, options.config or run.config, overrides)
    if changed := other_settings(run, config):
        raise ConfigError(*(f"--resume: {line}; start a new run for that" for line in changed))
    return config, run


def other_settings(run: RunDirectory, config: BaseModel) -> list[str]:
    """A line for each setting of a run that ``config`` has otherwise, but for what changes nothing that is computed."""
    saved = load_config(type(config), run.config)
    return [
        f"{run.config}: {key}: the run has {shown(old)}, asked for is {shown(new)}"
        for key, old, new in differences(saved.model_dump(mode="json"), config.model_dump(mode="json"))
        if key not in _MAY_CHANGE
    ]


def _run_to_resume(schema: type[BaseModel], resume: str, path: Path, overrides: dict) -> RunDirectory:
    if resume != "last":
        run = RunDirectory(Path(resume))
        if not run.config.is_file():
            raise ConfigError(f"--resume: {resume} is not a run's folder: it has no config.yaml")
        return run
    config = load_config(schema, path, overrides)
    run = RunDirectory.newest(config.runs_dir, config.experiment_name)
    if run is None or not run.config.is_file():
        raise ConfigError(f"--resume: {config.runs_dir / config.experiment_name} holds no run to resume")
    return run
