"""How a script ends, what --resume accepts, and the scripts as a user starts them."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from tiny_scripts import files_below, tiny_yaml

from dl_proj.cli import config_from, exit_on_mistake, training_config
from dl_proj.experiments.copy.settings import SynthComparisonConfig, SynthTrainConfig
from dl_proj.settings.errors import ConfigError
from my_custom_ai.custom_train import CheckpointError, NonFiniteLoss, SetupError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("error", "code", "lines"),
    [
        (ConfigError("a: one", "b: two"), 2, ["a: one", "b: two"]),
        (CheckpointError("weights: cut"), 2, ["weights: cut"]),
        (SetupError("no such device"), 2, ["no such device"]),
        (NonFiniteLoss("the loss became nan"), 1, ["stopped: the loss became nan"]),
        (OSError(28, "No space left on device", "runs"), 1, ["stopped: [Errno 28] No space left on device: 'runs'"]),
        (
            UnicodeEncodeError("ascii", "\xe4.csv", 0, 1, "no"),
            1,
            ["stopped: '\xe4.csv' cannot be written in this locale's encoding, ascii; set PYTHONUTF8=1"],
        ),
        (KeyboardInterrupt(), 130, ["interrupted"]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_how_a_script_ends(error, code, lines, capsys):
    def work():
        raise error

    with pytest.raises(SystemExit) as end:
        exit_on_mistake(work)
    assert end.value.code == code
    assert end.value.__suppress_context__, "no traceback of what led to it"
    assert capsys.readouterr() == ("", "\n".join(lines) + "\n")


@pytest.mark.parametrize(("rank", "waits"), [("0", False), ("1", True)])
def test_of_several_processes_the_first_tells_a_mistake(rank, waits, monkeypatch, capsys):
    """The others wait, and tell it if the first has not."""
    heard = []
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr("time.sleep", lambda seconds: heard.append(capsys.readouterr().err))

    def work():
        raise ConfigError("a: one")

    with pytest.raises(SystemExit):
        exit_on_mistake(work)
    assert heard == [""] * waits
    assert capsys.readouterr().err == "a: one\n"


@pytest.mark.slow
def test_torchrun_ends_those_that_wait():
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "3", ROOT / "evaluate.py"]
    done = subprocess.run([*command, "--no_such_flag", "1"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode
    assert done.stderr.count("no such flag") == 1, done.stderr


def test_our_own_mistakes_are_not_hidden():
    """A bug must not look like a user's mistake."""

    def work():
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        exit_on_mistake(work)


@pytest.mark.parametrize("library", ["torch.optim.lr_scheduler", "accelerate.accelerator"])
def test_the_libraries_advice_to_programmers_is_hidden(library):
    exit_on_mistake(lambda: warnings.warn_explicit("call it so", UserWarning, "x.py", 1, module=library))


def test_our_own_warnings_are_not_hidden():
    with pytest.warns(UserWarning, match="ours"):
        exit_on_mistake(lambda: warnings.warn("ours", stacklevel=1))


def test_without_a_file_the_preset_is_taken():
    config, run = training_config(SynthTrainConfig, ["--seed", "3"], preset="synth_train.yaml")
    assert run is None
    assert (config.seed, config.experiment_name) == (3, "synth-gen-lsh-r4")
    comparison = config_from(SynthComparisonConfig, ["--n_test", "5"], preset="synth_comparison.yaml")
    assert (comparison.n_test, comparison.lsh.bucket_size) == (5, 28)


def resumed(*flags):
    return training_config(SynthTrainConfig, list(map(str, flags)), preset="synth_train.yaml")


def test_resuming_keeps_the_runs_settings_not_the_presets(trained):
    config, run = resumed("--resume", trained["lsh"])
    assert run.path == trained["lsh"]
    assert config.model.attention.n_rounds == 2
    assert config.data.length == 12


def test_resuming_may_say_again_what_the_run_has(trained):
    tiny_yaml("same.yaml", {"experiment_name": "shared_qk"})
    runs = resumed("--resume", trained["shared_qk"], "--seed", 42, "--config", "same.yaml")
    assert runs[1].path == trained["shared_qk"]


@pytest.mark.parametrize(
    ("flag", "value"), [("train.device", "auto"), ("train.num_workers", 3), ("train.trackers", []), ("runs_dir", "x")]
)
def test_resuming_may_change_what_changes_no_result(flag, value, trained):
    shown = json.dumps(value) if isinstance(value, list) else value
    config, _ = resumed("--resume", trained["shared_qk"], f"--{flag}", shown)
    dumped = config.model_dump(mode="json")
    for step in flag.split("."):
        dumped = dumped[step]
    assert dumped == value


def test_the_last_run_is_the_newest_of_the_named_experiment(trained):
    for number in (2, 10, 9):
        trained["shared_qk"].with_name(f"version_{number}").mkdir()
        (trained["shared_qk"].with_name(f"version_{number}") / "config.yaml").write_text(
            (trained["shared_qk"] / "config.yaml").read_text()
        )
    tiny_yaml("c.yaml", {"experiment_name": "shared_qk"})
    _, run = resumed("--config", "c.yaml", "--resume", "last")
    assert run.path == Path("runs/shared_qk/version_10")
    _, run = resumed("--config", "c.yaml", "--resume", "last", "--experiment_name", "lsh", *LSH_AS_TRAINED)
    assert run.path == Path("runs/lsh/version_0")


LSH_AS_TRAINED = ["--model.attention", '{"kind": "lsh", "bucket_size": 2, "n_rounds": 2, "eval_rounds": 3}']


@pytest.mark.slow
def test_a_training_started_as_users_start_it():
    """In a process of its own, from another folder: it writes where it stands, and no library's warning is shown."""
    tiny_yaml("c.yaml")
    command = [sys.executable, ROOT / "synth_train.py", "--config", "c.yaml", "--model.reversible", "true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert all(line == "" or line.startswith("tiny:") for line in done.stderr.replace("\r", "\n").split("\n"))
    assert "runs/tiny/version_0: parameters " in done.stdout
    assert {path.split("/")[0] for path in files_below(".")} == {"c.yaml", "runs"}
    figures = json.loads(Path("runs/tiny/version_0/metrics.json").read_text())
    assert f"test/accuracy {figures['test/accuracy']:.6g}" in done.stdout
