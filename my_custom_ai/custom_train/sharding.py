"""FSDP2: weights, gradients and the optimiser's moments are sharded: each process keeps one part.

PyTorch's own ``fully_shard`` is used, not accelerate's: that one exists for GPUs only, replaces autocast by casting the
weights, and fails on modules that several layers share. It takes a second to import, so only those who need it do.
"""

import contextlib
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor


def shard(model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Share out a model over all processes, in place, and let the optimizer update the shards.

    One unit, whose weights are gathered and freed together, is each member of an ``nn.ModuleList``, each module with
    parameters that is used in several of them, and the rest of the model. All processes begin with the first one's
    weights.

    Raises:
        ValueError: the optimizer has a state, or keeps more than element by element.
    """
    from torch.distributed import get_world_size
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if optimizer.state:
        raise ValueError("optimizer: it has made updates already, so its state cannot be sharded")
    if isinstance(optimizer, torch.optim.Adafactor):
        raise ValueError("optimizer: Adafactor's moments belong to whole rows and columns, which cannot be sharded")
    _take_over_from_first(model, device)
    before = list(model.parameters())
    mesh = init_device_mesh(device.type, (get_world_size(),))
    members = list(_members(model))
    for module in [*_shared(members), *members, model]:
        fully_shard(module, mesh=mesh)
    now = dict(zip(before, model.parameters(), strict=True))
    for group in optimizer.param_groups:
        group["params"] = [now.get(parameter, parameter) for parameter in group["params"]]
    # a projection that is a unit of its own returns a view; nothing changes it in place
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")


@torch.no_grad()
def _take_over_from_first(model: nn.Module, device: torch.device) -> None:
    for tensor in chain(model.parameters(), model.buffers()):
        whole = tensor.detach().to(device)
        torch.distributed.broadcast(whole, src=0)
        tensor.copy_(whole)


def _members(module: nn.Module) -> Iterator[nn.Module]:
    """The members of the outermost lists of modules, those with parameters."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from (member for member in child if any(True for _ in member.parameters()))
        else:
            yield from _members(child)


def _shared(members: list[nn.Module]) -> list[nn.Module]:
    """Modules with parameters of their own that are part of several members."""
    uses = Counter(module for member in members for module in member.modules())
    return [module for module, n in uses.items() if n > 1 and list(module.parameters(recurse=False))]


@contextlib.contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """Context manager: every process has all weights of a sharded model; does nothing for any other model.

    Inside, the processes may call the model as differently as they like: nothing is communicated.
    """
    if not any(map(is_shard, model.parameters())):
        yield
        return
    gather(model)
    try:
        yield
    finally:
        for place, unit in enumerate(_units(model)):
            unit.reshard()
            # the weights of the first unit, the model, are needed at once in backward, so they stay gathered
            unit.set_reshard_after_forward(place > 0, recurse=False)


def gather(model: nn.Module) -> None:
    """Gather all weights of a sharded model in every process, and keep them there; to be called by all of them."""
    for unit in _units(model):
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()


def _units(model: nn.Module) -> "list[FSDPModule]":
    if not _fsdp_is_used():
        return []
    from torch.distributed.fsdp import FSDPModule

    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def is_shard(tensor: Tensor) -> "TypeGuard[DTensor]":
    """Whether a tensor is a shard, or replicated, of a tensor of all processes."""
    if not _fsdp_is_used():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def _fsdp_is_used() -> bool:
    return "torch.distributed.fsdp" in sys.modules


def collected(tensors: dict[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Whole tensors instead of shards, which are gathered one by one, on the CPU; to be called by all processes.

    Args:
        tensors: by name, the same names in all processes.
        keep: whether this process needs them; False: an empty dictionary.
    """
    found = {}
    for name, tensor in tensors.items():
        value = tensor.full_tensor().cpu() if is_shard(tensor) else tensor
        if keep:
            found[name] = value
    return found


def like(tensor: Tensor, own: Tensor) -> Tensor:
    """This process's part of a whole tensor, if ``own`` is a shard of the same shape; nothing is communicated."""
    if not is_shard(own) or tensor.shape != own.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    placed = tensor.to(device=own.device, dtype=own.dtype)
    return distribute_tensor(placed, own.device_mesh, own.placements, src_data_rank=None)
