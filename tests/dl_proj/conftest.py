"""What all tests of the experiments share: an empty working folder, one thread, no curves, a way to call a script."""

import shutil
from unittest import mock

import pytest
import torch
from tiny_scripts import call, one_thread, tiny_yaml


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    """What is written to a relative path lands there, and a test sees it; no test's seed reaches the next."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    with one_thread():
        yield


@pytest.fixture
def curves():
    """Asked for by a test that looks at the curves of a training."""


@pytest.fixture(autouse=True)
def no_curves(request, monkeypatch):
    """They take longer than these trainings; elsewhere their file stays empty."""
    if "curves" not in request.fixturenames:
        monkeypatch.setattr("dl_proj.experiments.experiment.draw_curves", lambda metrics, path: path.touch())


@pytest.fixture
def script(capfd):
    """Calls a script in this process: script("synth_train", *flags) -> its exit code, output and complaints."""
    return lambda name, *flags: call(name, *flags, captured=capfd)


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory):
    """Folders of finished runs: one a kind of attention, and one of another width."""
    folder = tmp_path_factory.mktemp("trained")
    runs = {}
    for name, changes in {
        "shared_qk": {},
        "full": {"model.attention": {"kind": "full"}},
        "lsh": {"model.attention": {"kind": "lsh", "bucket_size": 2, "n_rounds": 2, "eval_rounds": 3}},
        "wider": {"model.dim": 24},
    }.items():
        config = tiny_yaml(folder / f"{name}.yaml", {"experiment_name": name, "runs_dir": str(folder), **changes})
        with one_thread(), mock.patch("dl_proj.experiments.experiment.draw_curves", lambda metrics, path: path.touch()):
            assert call("synth_train", "--config", config).code == 0
        runs[name] = folder / name / "version_0"
    return runs


@pytest.fixture
def trained(trained_once, tmp_path):
    """As ``trained_once``, in this test's own folder, where it may spoil them."""
    return {
        name: shutil.copytree(run, tmp_path / "runs" / name / "version_0").relative_to(tmp_path)
        for name, run in trained_once.items()
    }
