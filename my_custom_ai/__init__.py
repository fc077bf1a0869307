"""A training engine for any nn.Module, independent of attention and of any dataset.

You define an objective, which computes loss and metrics on a batch. The engine does the rest: batches, updates,
evaluation, the best weights, and a run folder from which an interrupted training resumes.

```python
import torch
from torch import nn
from torch.utils.data import TensorDataset

from my_custom_ai import Pace, Ratio, Trainer, build_optimizer


class LeastSquares:
    def measure(self, model, batch):
        x, y = batch
        return {"loss": Ratio((model(x) - y).square().sum(), len(y))}


x = torch.randn(500, 3)
data = TensorDataset(x, x.sum(1, keepdim=True))
model = nn.Linear(3, 1)
optimizer = build_optimizer(model, lr=0.03)
pace = Pace(total_steps=200, batch_size=20)
trainer = Trainer(model, LeastSquares(), optimizer, train_data=data, val_data=data, pace=pace, run="runs/squares")
trainer.fit()
```

docs/engine.md explains it step by step; exports.py lists the public names.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

try:
    __version__ = version("dl-proj")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+unknown"

if TYPE_CHECKING:
    from my_custom_ai.exports import *  # noqa: F403 (exactly its __all__)
else:

    def __getattr__(name: str) -> Any:
        """Load a public name from exports.py on first use, so that importing the package imports no torch (PEP 562)."""
        if not name.startswith("__") or name == "__all__":
            exports = import_module("my_custom_ai.exports")
            if name == "__all__" or name in exports.__all__:
                return getattr(exports, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__getattr__("__all__")})
