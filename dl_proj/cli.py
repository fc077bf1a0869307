"""Argument handling and error reporting shared by all scripts."""

import errno
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, TypeVar

from pydantic import BaseModel

from dl_proj.checkpoint_folder import check_task, config_path, find_checkpoint
from dl_proj.commands import Command
from dl_proj.run_changes import refused_changes
from dl_proj.settings.base import expanded
from dl_proj.settings.errors import ConfigError, complain, reason, shown
from dl_proj.settings.help import Nested
from dl_proj.settings.load import differences, file_or_preset, is_training, load_config, merge, parse_flags
from dl_proj.settings.outputs import check_outputs, refusal_of
from dl_proj.settings.read_yaml import read_yaml
from dl_proj.settings.sizes import sizes_in
from my_custom_ai.custom_train.errors import (
    CheckpointError,
    LostProcess,
    NonFinite,
    OutOfMemory,
    SetupError,
    is_lost_process,
    is_out_of_memory,
)
from my_custom_ai.custom_train.run_directory import RunDirectory
from my_custom_ai.utils.signals import FirstSignal, exit_code, raise_stopped

Config = TypeVar("Config", bound=BaseModel)

CONFIGS = Path(__file__).parent / "configs"
_TUNED = "-tuned"  # appended to the names of runs that start from a checkpoint and its settings
_PATIENCE = 20.0  # seconds within which rank 0 is sure to report the same mistake


def exit_on_mistake(work: Callable[[], None]) -> None:
    """Do the work; a user's mistakes are printed one per line, with exit code 2; a failed run exits with 1."""
    # torch and accelerate warn their callers about things that the user of a script cannot change
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(torch|accelerate)\.")
    try:
        work()
    except ConfigError as error:
        _complain_once(error.lines)
        raise SystemExit(2) from None
    except (CheckpointError, SetupError) as error:
        _complain_once((str(error),))
        raise SystemExit(2) from None
    except UnicodeEncodeError as error:
        if error.encoding == "utf-8":  # then it is a lone surrogate: a bug, not the locale
            raise
        name, encoding = error.object, error.encoding
        complain((f"stopped: {name!r} cannot be written in this locale's encoding, {encoding}; set PYTHONUTF8=1",))
        raise SystemExit(1) from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # must come from an argument: settings are bounded, our own names short
            _complain_once((f"{error.filename}: {reason(error)}",))
            raise SystemExit(2) from None
        _complain_once((f"stopped: {error}",))
        raise SystemExit(1) from None
    except (NonFinite, OutOfMemory, LostProcess) as error:
        _complain_once((f"stopped: {error}",))
        raise SystemExit(1) from None
    except (MemoryError, ImportError, RuntimeError) as error:
        if is_lost_process(error):
            _complain_once(("stopped: another process has ended or does not respond",))
            raise SystemExit(1) from None
        if not is_out_of_memory(error):  # later, _run names the settings to reduce
            raise
        _complain_once((f"stopped: {OutOfMemory.words(error)}, before the work began",))
        raise SystemExit(1) from None
    except KeyboardInterrupt as error:
        if os.environ.get("RANK", "0") == "0":  # torchrun sends the signal to every process
            complain((str(error) or "interrupted",))
        raise SystemExit(exit_code(error)) from None


def _complain_once(lines: tuple[str, ...]) -> None:
    """Print a mistake on rank 0 only: the others wait until torchrun ends them because rank 0 has exited."""
    if os.environ.get("RANK", "0") != "0":
        time.sleep(_PATIENCE)
    complain(lines)


def call(command: Command, argv: list[str], prog: str | None = None) -> None:
    """Read the flags, importing only the command's settings; if they are valid, import its code and run it."""
    schema = resolve_name(command.schema)
    arguments: tuple[object, ...]
    if is_training(schema):
        arguments = training_config(schema, argv, command.preset, prog=prog)
        if "--dry_run" in argv:
            _run(resolve_name("dl_proj.experiments.dry_run:dry_run"), arguments[0])
            return
    elif command.words:
        arguments = config_and_words(schema, argv, command.preset, words=command.words, prog=prog)
    else:
        arguments = (config_from(schema, argv, command.preset, prog=prog),)
    check_outputs(arguments[0])
    _run(resolve_name(command.run), *arguments)


def _run(work: Callable[..., None], config: Any, *others: object) -> None:
    """Do a command's work; an error that its settings caused is reported with their names."""
    try:
        with FirstSignal(raise_stopped):
            work(config, *others)
    except OSError as error:
        raise refusal_of(config, error) or error from None
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        nothing = "; nothing was trained yet, so there is no state to resume from" if is_training(type(config)) else ""
        less = f"reduce one of these: {sizes_in(config)}"
        raise OutOfMemory(f"{OutOfMemory.words(error)}; {less}{nothing}") from error


def _preset(name: str) -> Path:
    """Return a preset's path, relative to the working directory if possible."""
    path = CONFIGS / name
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _file(given: Path | None, preset: str) -> Path:
    return _preset(preset) if given is None else file_or_preset(expanded(given), _preset(preset).parent)


def config_from(schema: type[Config], argv: list[str], preset: str, *, prog: str | None = None) -> Config:
    """Return a non-training command's configuration: ``--config`` or the preset, overridden by flags."""
    return config_and_words(schema, argv, preset, words=None, prog=prog)[0]


def config_and_words(
    schema: type[Config], argv: list[str], preset: str, *, words: str | None, prog: str | None = None
) -> tuple[Config, list[str]]:
    """Return the configuration and the positional arguments, which ``--help`` calls ``words``; None allows none."""
    options, overrides = parse_flags(schema, argv, _preset(preset), words=words, prog=prog)
    return load_config(schema, _file(options.config, preset), overrides), options.words


def training_config(
    schema: type[Config], argv: list[str], preset: str, *, prog: str | None = None
) -> tuple[Config, RunDirectory | None]:
    """Return the configuration of a training and, with ``--resume``, the run that it continues.

    A resumed run keeps its settings, whatever ``--config`` says; a line lists where the file differs. Flags may change
    the settings that :mod:`dl_proj.run_changes` allows.
    """
    options, overrides = parse_flags(schema, argv, _preset(preset), prog=prog)
    if options.resume is None:
        path, of_new = _start(schema, options.config, preset, overrides)
        name = overrides.get("experiment_name")
        return _quick(schema, path, of_new, name) if options.quick else load_config(schema, path, of_new), None
    for name in ("dry_run", "quick"):
        if getattr(options, name):
            raise ConfigError(f"--{name}: only for a new training; remove --resume {options.resume}")
    if options.resume == "last":
        run = _last_run(load_config(schema, *_start(schema, options.config, preset, overrides)))
    else:
        run = _run_in(options.resume)
    config = load_config(schema, run.config, overrides)
    if refused := refused_changes(run, config):
        advice = f"keep the run's value, or start a new run, perhaps with --init_from {run.path}"
        raise ConfigError(*(f"--resume: {line}; {advice}" for line in refused))
    if options.config:
        _print_kept_settings(run, config, load_config(schema, _file(options.config, preset), overrides))
    return config, run


def _start(schema: type[BaseModel], given: Path | None, preset: str, overrides: Nested) -> tuple[Path, Nested]:
    """Return a new run's file and overrides; without ``--config``, the file is that of ``--init_from``."""
    origin = overrides.get("init_from")
    if given is not None or not isinstance(origin, str):
        return _file(given, preset), overrides
    try:
        path = config_path(find_checkpoint(origin))
    except CheckpointError as error:
        raise ConfigError(f"flags: init_from: {error}") from None
    check_task(schema, path)
    name = str(read_yaml(path).get("experiment_name", path.parent.name))
    own = {"experiment_name": f"{name.removesuffix(_TUNED)}{_TUNED}"}
    own |= {name: schema.model_fields[name].default for name in ("runs_dir", "init_strict")}
    return path, own | overrides


def _quick(schema: type[Config], path: Path, overrides: Nested, name: str | None) -> Config:
    """Return the configuration of a ``--quick`` run, called NAME-quick unless ``name`` was given; flags override it."""
    training: Any = schema  # every training's schema has quick()
    quick: Nested = training.quick()
    pace = overrides.get("train")
    if isinstance(pace, dict) and "epochs" in pace:
        del quick["train"]["max_steps"]
    config: Any = load_config(schema, path, merge(quick, overrides))
    return config if name else config.model_copy(update={"experiment_name": f"{config.experiment_name}-quick"})


def _print_kept_settings(run: RunDirectory, config: BaseModel, of_file: BaseModel) -> None:
    """Print one line with the settings in which ``--config`` differs from the run, which keeps its own."""
    found = differences(of_file.model_dump(mode="json"), config.model_dump(mode="json"))
    kept = [f"{key} {shown(new)} (the file: {shown(old)})" for key, old, new in found]
    if kept and os.environ.get("RANK", "0") == "0":  # torchrun's
        print(f"{run.path} keeps its own {', '.join(kept)}")


def _run_in(folder: str) -> RunDirectory:
    run = RunDirectory(expanded(folder))
    if not run.config.is_file():
        raise ConfigError(f"--resume: {folder} is not a run folder: it has no config.yaml")
    if (run.path / "model.safetensors").is_file() and not run.last_state.is_file():
        raise ConfigError(
            f"--resume: {folder} holds a model's weights, not the saved state of a training; pass the folder of a run, "
            f"such as runs/NAME/version_0, or start a new run from the weights with --init_from {folder}"
        )
    return run


def _last_run(config: Any) -> RunDirectory:
    """Return the newest run of the experiment that a training's configuration names."""
    newest = RunDirectory.newest(config.runs_dir, config.experiment_name)
    if newest is None or not newest.config.is_file():
        folder = config.runs_dir / config.experiment_name
        raise ConfigError(f"--resume: {folder} holds no run to resume; pass a run's folder, or the flags that name it")
    return newest
