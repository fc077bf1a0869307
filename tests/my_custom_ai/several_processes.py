"""Processes that gloo connects, as torchrun would start them."""

import json
import os
import socket
from pathlib import Path

import torch


def refuse(*_):
    raise AssertionError("only the main process may write")


def join_in(rank, world_size, port, target, arguments):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    torch.set_num_threads(1)
    torch.manual_seed(rank + 77)  # what a process drew before must not matter
    if rank:
        Path.replace = refuse
    seen = target(*arguments)
    if seen is not None:
        Path(f"seen_{rank}.json").write_text(json.dumps(seen))


def on_processes(n, forkserver, target, *arguments):
    """Call ``target(*arguments)`` on ``n`` processes; returns what each returned, through JSON, None left out."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [forkserver.Process(target=join_in, args=(rank, n, port, target, arguments)) for rank in range(n)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0] * n
    return [json.loads(path.read_text()) for path in sorted(Path.cwd().glob("seen_*.json"))]
