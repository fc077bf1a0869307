"""What tests that start processes share."""

import multiprocessing.forkserver
import os
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def forkserver():
    """Starts processes in which torch and the project are imported already: ``forkserver.Process(target=...)``.

    Each is forked off a server that has done nothing but import, so that it holds no thread and has drawn nothing.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "synth_train", "torch.utils.tensorboard"])
    with pytest.MonkeyPatch.context() as patch:  # the server finds modules as this process does
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]))
        multiprocessing.forkserver.ensure_running()
    return context
