import pytest
import torch
from accelerate.state import AcceleratorState

from my_custom_ai.custom_train import SetupError, check_installed, devices, start


@pytest.fixture
def only_a_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "cuda"}, "device 'cuda' is not available on this machine, which has: cpu"),
        ({"device": "mps"}, "device 'mps' is not available on this machine, which has: cpu"),
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


def test_each_start_has_the_precision_that_it_was_asked_for():
    for precision in ("bf16", "no", "bf16"):
        assert start("cpu", precision).mixed_precision == precision


def test_accelerates_state_is_emptied_only_for_another_precision(monkeypatch):
    start("cpu", "bf16")
    emptied = []
    monkeypatch.setattr(AcceleratorState, "_reset_state", lambda **_: emptied.append(True))
    assert start("cpu", "bf16").mixed_precision == "bf16"
    assert not emptied
    with pytest.raises(ValueError, match="already been initialized"):  # accelerate's own, as nothing was emptied
        start("cpu", "no")
    assert emptied == [True]


def test_another_device_is_not_ignored(monkeypatch):
    """accelerate alone would stay on the device of the process's first Accelerator."""
    start("cpu")
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "meta")
    monkeypatch.setattr(devices, "available_devices", lambda: ["mps", "cpu"])
    assert start("mps").device.type == "meta", "read anew"
    monkeypatch.delenv("ACCELERATE_TORCH_DEVICE")
    assert start("cpu").device.type == "cpu"


@pytest.mark.parametrize("argument", ["device", "precision", "matmul_precision"])
def test_an_unknown_name_is_refused(argument):
    with pytest.raises(ValueError, match=rf"^{argument} is 'half', must be one of "):
        start(**{argument: "half"})


def test_a_time_to_wait_must_be_above_zero():
    with pytest.raises(ValueError, match="wait_minutes is 0"):
        start("cpu", wait_minutes=0)


def test_products_on_a_cpu_keep_float32_whatever_was_asked_for():
    torch.set_float32_matmul_precision("medium")
    start("cpu", matmul_precision="high")
    assert torch.get_float32_matmul_precision() == "highest"
