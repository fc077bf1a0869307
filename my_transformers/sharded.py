"""Layers whose parameters FSDP2 (``torch.distributed.fsdp.fully_shard``) has sharded over processes.

FSDP2 gathers a module's parameters in a hook before its ``forward``, and frees them in a hook after it; hooks in
backward do the same and sum the gradients. A reversible stack calls a layer's sublayers instead of the layer, and
computes the gradients in a backward of its own, so that these hooks do not run. The functions below stand in for them.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule

LayerT = TypeVar("LayerT", bound=nn.Module)


def one_by_one(layers: Sequence[LayerT]) -> Iterator[LayerT]:
    """Iterate over layers; the parameters of the current one are whole, and the next one's are being gathered.

    Layers that are not sharded, or are gathered already, stay as they are.
    """
    for i, layer in enumerate(layers):
        units = _sharded_units(layer)
        for unit in units:
            unit.unshard()
        for unit in _sharded_units(layers[i + 1]) if i + 1 < len(layers) else ():
            unit.unshard(async_op=True)
        try:
            yield layer
        finally:
            for unit in units:
                unit.reshard()


def like_parameter(gradient: Tensor, parameter: Tensor) -> Tensor:
    """The mean over processes of the gradient of a gathered parameter, sharded like ``parameter``, in its dtype.

    If the parameter is not sharded, that is the gradient itself.
    """
    if not _fsdp_is_used() or not _is_sharded(parameter):
        return gradient
    from torch.distributed.tensor import DTensor, Partial

    assert isinstance(parameter, DTensor)
    mesh = parameter.device_mesh
    share = gradient.to(parameter.dtype) / mesh.size()
    parts = DTensor.from_local(share, mesh, [Partial()] * mesh.ndim, run_check=False)
    return parts.redistribute(placements=parameter.placements)


def _sharded_units(layer: nn.Module) -> "list[FSDPModule]":
    """The modules in a layer, or the layer itself, to which ``fully_shard`` was applied and that are not gathered."""
    if not _fsdp_is_used():
        return []
    from torch.distributed.fsdp import FSDPModule

    units: list[FSDPModule] = [module for module in layer.modules() if isinstance(module, FSDPModule)]
    return units if units and any(map(_is_sharded, layer.parameters())) else []


def _is_sharded(parameter: Tensor) -> bool:
    from torch.distributed.tensor import DTensor

    return isinstance(parameter, DTensor)


def _fsdp_is_used() -> bool:
    return "torch.distributed.fsdp" in sys.modules  # which takes seconds to import
