"""Which folder a name means, and whose configuration stands in it."""

from pathlib import Path

import pytest

import dl_proj.checkpoint_folder
from dl_proj.checkpoint_folder import find_checkpoint, read_config
from dl_proj.configs.load import ConfigError, load_config
from dl_proj.configs.synth import SynthTrainConfig
from my_custom_ai.custom_train import CheckpointError


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    monkeypatch.setattr(dl_proj.checkpoint_folder, "SHIPPED", tmp_path / "shipped")
    for name in ("first", "second"):
        with_weights(tmp_path / "shipped" / name)
    (tmp_path / "shipped" / "unfinished").mkdir()
    return tmp_path / "shipped"


def with_weights(folder):
    folder.mkdir(parents=True)
    (folder / "model.safetensors").touch()
    return folder


def test_a_shipped_name(shipped):
    assert find_checkpoint("first") == shipped / "first"


def test_a_folder_with_weights(shipped):
    assert find_checkpoint(str(with_weights(Path("mine")))) == Path("mine")


def test_a_runs_folder_means_its_best(shipped):
    best = with_weights(Path("runs/x/version_3/checkpoints/best"))
    assert find_checkpoint("runs/x/version_3") == best


def test_a_shipped_name_means_the_shipped_one_whatever_lies_here(shipped):
    """Otherwise a table's rows would depend on the folder one stands in; a full path says the other."""
    mine = with_weights(Path("first")).resolve()
    assert find_checkpoint("first") == shipped / "first"
    assert find_checkpoint(str(mine)) == mine


@pytest.mark.parametrize("name", ["third", "unfinished", "runs/x", "c.yaml"])
def test_none_of_these(name, shipped):
    Path("c.yaml").touch()
    with pytest.raises(CheckpointError, match=rf"^'{name}' is neither .* shipped checkpoints: first, second$"):
        find_checkpoint(name)


def test_nothing_is_shipped(tmp_path, monkeypatch):
    monkeypatch.setattr(dl_proj.checkpoint_folder, "SHIPPED", tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"shipped checkpoints: none$"):
        find_checkpoint("first")


def test_the_configuration_of_a_run_and_of_its_best(trained):
    run = trained["lsh"]
    expected = load_config(SynthTrainConfig, run / "config.yaml")
    assert read_config(SynthTrainConfig, run / "checkpoints" / "best") == expected
    (run / "checkpoints" / "best" / "config.yaml").unlink()
    assert read_config(SynthTrainConfig, run / "checkpoints" / "best") == expected


def test_a_folder_does_not_borrow_a_configuration_from_above():
    Path("config.yaml").write_text("experiment_name: x\ntrain: {max_steps: 9}\n")
    folder = with_weights(Path("a/b"))
    with pytest.raises(ConfigError, match=r"^a/b/config.yaml: no such file"):
        read_config(SynthTrainConfig, folder)
