"""What every script does with its arguments and with its user's mistakes."""

import warnings
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, TypeVar

from pydantic import BaseModel

from dl_proj.commands import Command
from dl_proj.settings.errors import ConfigError
from dl_proj.settings.help import Nested
from dl_proj.settings.load import complain, differences, file_or_preset, is_training, load_config, parse_flags, shown
from my_custom_ai.custom_train.errors import CheckpointError, NonFiniteLoss, SetupError
from my_custom_ai.custom_train.run_directory import RunDirectory

Config = TypeVar("Config", bound=BaseModel)

CONFIGS = Path(__file__).parent / "configs"
_MAY_CHANGE = {"train.device", "train.num_workers", "train.trackers", "runs_dir"}  # none changes what is computed


def exit_on_mistake(work: Callable[[], None]) -> None:
    """Do the work; a user's mistake ends with exit code 2 and a line each, a failed run with 1."""
    # accelerate's and torch's advice to their callers is nothing that a user of a script can act on
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(torch|accelerate)\.")
    try:
        work()
    except ConfigError as error:
        complain(error.lines)
        raise SystemExit(2) from None
    except (CheckpointError, SetupError) as error:
        complain((str(error),))
        raise SystemExit(2) from None
    except UnicodeEncodeError as error:
        if error.encoding == "utf-8":  # which writes all but halves of characters
            raise
        name, encoding = error.object, error.encoding
        complain((f"stopped: {name!r} cannot be written in this locale's encoding, {encoding}; set PYTHONUTF8=1",))
        raise SystemExit(1) from None
    except (NonFiniteLoss, OSError) as error:
        complain((f"stopped: {error}",))
        raise SystemExit(1) from None
    except KeyboardInterrupt as error:
        complain((str(error) or "interrupted",))
        raise SystemExit(130) from None


def call(command: Command, argv: list[str], prog: str | None = None) -> None:
    """Read the flags, which imports the command's settings alone; if they are right, import its work and do it."""
    schema = resolve_name(command.schema)
    arguments: tuple[object, ...]
    if is_training(schema):
        arguments = training_config(schema, argv, command.preset, prog=prog)
    elif command.words:
        arguments = config_and_words(schema, argv, command.preset, words=command.words, prog=prog)
    else:
        arguments = (config_from(schema, argv, command.preset, prog=prog),)
    resolve_name(command.run)(*arguments)


def _preset(name: str) -> Path:
    """A preset's path, as short as a user in the repository's folder would write it."""
    path = CONFIGS / name
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _file(given: Path | None, preset: str) -> Path:
    return _preset(preset) if given is None else file_or_preset(given, _preset(preset).parent)


def config_from(schema: type[Config], argv: list[str], preset: str, *, prog: str | None = None) -> Config:
    """The configuration of a command that resumes nothing: ``--config`` or the preset, and flags over it."""
    return config_and_words(schema, argv, preset, words=None, prog=prog)[0]


def config_and_words(
    schema: type[Config], argv: list[str], preset: str, *, words: str | None, prog: str | None = None
) -> tuple[Config, list[str]]:
    """The same, and the arguments that are no flags, which ``--help`` calls ``words``; None allows none."""
    options, overrides = parse_flags(schema, argv, _preset(preset), words=words, prog=prog)
    return load_config(schema, _file(options.config, preset), overrides), options.words


def training_config(
    schema: type[Config], argv: list[str], preset: str, *, prog: str | None = None
) -> tuple[Config, RunDirectory | None]:
    """The configuration of a training, and the run that it continues, if ``--resume`` was given.

    A resumed run keeps the settings that it was started with: a flag or ``--config`` that says otherwise is a mistake,
    except for settings that change nothing that is computed.
    """
    options, overrides = parse_flags(schema, argv, _preset(preset), prog=prog)
    path = _file(options.config, preset)
    if options.resume is None:
        return load_config(schema, path, overrides), None
    run = _run_to_resume(schema, options.resume, path, overrides)
    config = load_config(schema, path if options.config else run.config, overrides)
    if changed := other_settings(run, config):
        advice = f"start a new run for that, or keep the run's settings with --resume {run.path} alone"
        raise ConfigError(*(f"--resume: {line}; {advice}" for line in changed))
    return config, run


def other_settings(run: RunDirectory, config: BaseModel) -> list[str]:
    """A line for each setting of a run that ``config`` has otherwise, but for what changes nothing that is computed."""
    saved = load_config(type(config), run.config)
    return [
        f"{run.config}: {key}: the run has {shown(old)}, asked for is {shown(new)}"
        for key, old, new in differences(saved.model_dump(mode="json"), config.model_dump(mode="json"))
        if key not in _MAY_CHANGE
    ]


def _run_to_resume(schema: type[BaseModel], resume: str, path: Path, overrides: Nested) -> RunDirectory:
    if resume != "last":
        run = RunDirectory(Path(resume))
        if not run.config.is_file():
            raise ConfigError(f"--resume: {resume} is not a run's folder: it has no config.yaml")
        if (run.path / "model.safetensors").is_file() and not run.last_state.is_file():
            raise ConfigError(
                f"--resume: {resume} holds a model's weights, not the saved state of a training; give the folder of a "
                "run, such as runs/NAME/version_0"
            )
        return run
    config: Any = load_config(schema, path, overrides)  # a training's, which has a folder and a name
    newest = RunDirectory.newest(config.runs_dir, config.experiment_name)
    if newest is None or not newest.config.is_file():
        raise ConfigError(f"--resume: {config.runs_dir / config.experiment_name} holds no run to resume")
    return newest
