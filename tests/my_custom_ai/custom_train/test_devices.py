import pytest
import torch

from my_custom_ai.custom_train import SetupError, check_installed, devices, start


@pytest.fixture
def only_a_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "cuda"}, "device 'cuda' is not on this machine, which has: cpu"),
        ({"device": "mps"}, "device 'mps' is not on this machine, which has: cpu"),
        ({"device": "cpu", "precision": "fp16"}, "precision 'fp16' needs a GPU; on a CPU use 'no' or 'bf16'"),
        ({"precision": "fp16"}, "precision 'fp16' needs a GPU; on a CPU use 'no' or 'bf16'"),
    ],
)
def test_what_is_not_to_be_had_is_one_line(only_a_cpu, arguments, message):
    with pytest.raises(SetupError) as caught:
        start(**arguments)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_a_tracker_that_is_not_installed_is_one_line():
    check_installed(("tensorboard",))
    with pytest.raises(SetupError, match="tracker 'no_such_tracker' is not installed; pip install no_such_tracker"):
        check_installed(("tensorboard", "no_such_tracker"))


def test_auto_takes_the_fastest(only_a_cpu, monkeypatch):
    assert devices.available_devices() == ["cpu"]
    assert start("auto").device.type == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert devices.available_devices() == ["mps", "cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert devices.available_devices() == ["cuda", "mps", "cpu"]


def test_each_start_is_a_fresh_one():
    for precision in ("bf16", "no", "bf16"):
        assert start("cpu", precision).mixed_precision == precision
