import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_scripts import assert_refused, call, tiny_yaml

from dl_proj.settings.outputs import refusal_of


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("README.md").write_text("no folder")
    return tmp_path


def test_a_folder_that_cannot_be_made_is_refused_before_anything_is_measured(here, capfd):
    assert_refused(
        call("evaluate", "--output_dir", "README.md/x", captured=capfd), [("output_dir", "README.md/x", "--output_dir")]
    )


def test_a_file_for_translations_that_is_a_folder_is_refused(here, capfd):
    assert_refused(call("translate", "A dog.", "--output", ".", captured=capfd), [("output", "--output")])


def test_trainings_are_refused_likewise(here, capfd):
    flags = ["--config", tiny_yaml("c.yaml"), "--runs_dir", "README.md/runs"]
    assert_refused(call("synth_train", *flags, captured=capfd), [("runs_dir", "README.md/runs", "--runs_dir")])


def test_trying_leaves_nothing(here):
    from dl_proj.settings.outputs import check_outputs

    check_outputs(SimpleNamespace(output_dir=here / "a" / "b"))
    assert [path.name for path in here.iterdir()] == ["README.md"]


def test_a_read_only_folder_names_its_flag():
    config = SimpleNamespace(data=SimpleNamespace(root=Path("data")), runs_dir=Path("runs"))
    read_only = OSError(errno.EROFS, os.strerror(errno.EROFS), "data/tokens/x.bin")
    assert "--data.root" in str(refusal_of(config, read_only))
    assert refusal_of(config, OSError(errno.ENOSPC, "full", "data/tokens/x.bin")) is None
    assert refusal_of(config, OSError(errno.EROFS, "read-only", "elsewhere/x.bin")) is None
