"""What tests that start processes share."""

import multiprocessing.forkserver
import os
import signal
import sys
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported; see triton_interpreter.py


def pytest_configure(config):
    """Processes that share out the tests share the cores, too: one thread each, and in what they start.

    What tests start must hear Ctrl-C and hang-ups, also where a shell or nohup runs these tests and ignores them.
    """
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)
    if hasattr(config, "workerinput"):
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)


def pytest_collection_modifyitems(config, items):
    """Slow tests first: one that began last would keep a single process busy while the others have nothing to do.

    Those of ``make test-torture`` only where they are asked for.
    """
    if "torture" not in config.option.markexpr:
        left_out = [item for item in items if item.get_closest_marker("torture")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def forkserver():
    """Starts processes in which torch and the project are imported already: ``forkserver.Process(target=...)``.

    Each is forked off a server that has done nothing but import, so that it holds no thread and has drawn nothing.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["pytest", "dl_proj.cli", "dl_proj.experiments.copy.train", "torch.utils.tensorboard", "torch.distributed.fsdp"]
    )
    with pytest.MonkeyPatch.context() as patch:  # the server finds modules as this process does
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]))
        multiprocessing.forkserver.ensure_running()
    return context


@pytest.fixture(scope="session")
def real_data():
    """The folder of real data, which CONTRIBUTING.md describes."""
    folder = Path(os.environ.get("DL_PROJ_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data").absolute()
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there; DL_PROJ_TEST_DATA says where the real data is")
    return folder
