"""Which folder a name means, and whose configuration stands in it."""

from pathlib import Path

import pytest
from tiny_scripts import as_yaml, assert_states, tiny_classifier

import dl_proj.checkpoint_folder
from dl_proj.checkpoint_folder import SHIPPED, config_path, find_checkpoint, find_checkpoints, read_config
from dl_proj.experiments.copy.settings import SynthTrainConfig
from dl_proj.experiments.images.classification.settings import ClassifierTrainConfig
from dl_proj.settings.errors import ConfigError
from dl_proj.settings.load import load_config
from my_custom_ai.custom_train import CheckpointError
from my_custom_ai.custom_train.checksums import agrees_with_sums


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


def test_all_shipped_weights_and_tokenizers_have_their_checksum():
    files = [path for name in ("model.safetensors", "*tokenizer.json") for path in SHIPPED.glob(f"*/{name}")]
    assert len(files) > 20 and all(map(agrees_with_sums, files))


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


def test_one_name_is_one_checkpoint(shipped):
    best = with_weights(Path("runs/x/version_3/checkpoints/best"))
    assert find_checkpoints("first") == {"first": shipped / "first"}
    assert find_checkpoints("runs/x/version_3") == {"runs/x/version_3": best}
    assert find_checkpoints(str(best)) == {str(best): best}


def test_a_folder_means_all_below_it(shipped):
    """A run is called by its own folder's name, as any other folder with weights; in alphabetical order."""
    runs = [with_weights(Path("runs") / name / "checkpoints/best") for name in ("x/version_10", "x/version_2", "w")]
    plain = with_weights(Path("runs/plain"))
    last = Path("runs/x/version_2/checkpoints/last")
    last.mkdir()
    (last / "state.safetensors").touch()
    named_best = with_weights(Path("runs/best"))
    expected = [
        ("best", named_best),
        ("plain", plain),
        ("w", runs[2]),
        ("x/version_10", runs[0]),
        ("x/version_2", runs[1]),
    ]
    assert list(find_checkpoints("runs").items()) == expected
    assert find_checkpoints("runs/x/") == {"version_10": runs[0], "version_2": runs[1]}
    assert set(find_checkpoints(str(Path("runs").resolve()))) == {name for name, _ in expected}


def test_below_a_run_its_weights_are_found_too():
    best = with_weights(Path("runs/x/checkpoints/best"))
    assert find_checkpoints("runs/x/checkpoints") == {"best": best}


def test_all_that_ship_by_their_folder(shipped):
    assert find_checkpoints(str(shipped)) == {"first": shipped / "first", "second": shipped / "second"}


@pytest.mark.parametrize("name", ["third", "unfinished", "runs/x", "c.yaml"])
def test_none_below_these(name, shipped):
    Path("c.yaml").touch()
    Path("runs/x/checkpoints/last").mkdir(parents=True)
    Path("runs/x/checkpoints/last/state.safetensors").touch()
    with pytest.raises(CheckpointError, match=rf"^'{name}' is neither .* shipped checkpoints: first, second$"):
        find_checkpoints(name)


def test_where_a_configuration_stands():
    """Beside the weights; for a run's best weights, until it ends, in the run's folder."""
    run, other = Path("run"), with_weights(Path("run/checkpoints/other"))
    best = with_weights(Path("run/checkpoints/best"))
    assert config_path(best) == run / "config.yaml"
    assert config_path(other) == other / "config.yaml"
    (best / "config.yaml").touch()
    assert config_path(best) == best / "config.yaml"


def trained_on(data):
    """A checkpoint's folder with nothing but its configuration."""
    folder = Path("model")
    folder.mkdir()
    as_yaml(folder / "config.yaml", tiny_classifier({"task": "classification", "data": data}))
    return folder


def test_other_data_changes_what_was_given_alone():
    folder = trained_on({"dataset": "digits", "patch_size": 4, "labels": [1, 2]})
    trained, moved = (read_config(ClassifierTrainConfig, folder, data) for data in (None, {"root": "~/elsewhere"}))
    assert moved.data.root == Path.home() / "elsewhere"
    dumped = moved.model_dump()
    dumped["data"]["root"] = trained.data.root
    assert dumped == trained.model_dump()


def test_mistakes_in_other_data_are_those_of_a_training():
    folder = trained_on({"dataset": "digits", "patch_size": 4})
    for data, place, fact in (
        ({"path": "x"}, "flags: data.path", "root"),
        ({"patch_size": "many"}, "flags: data.patch_size", "'many'"),
        ({"patch_size": 3}, "model/config.yaml and flags: data", 3),
    ):
        with pytest.raises(ConfigError) as error:
            read_config(ClassifierTrainConfig, folder, data)
        assert_states(str(error.value), place, fact)


def test_the_home_folder_in_a_name(monkeypatch, shipped):
    monkeypatch.setenv("HOME", str(Path("home").absolute()))
    folder = with_weights(Path("home/runs/a/checkpoints/best")).absolute()
    assert find_checkpoint("~/runs/a") == folder
    assert find_checkpoints("~/runs/a") == {str(folder.parents[1]): folder}
    assert find_checkpoints("~/runs") == {"a": folder}
