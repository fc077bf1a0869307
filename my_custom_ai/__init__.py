"""A training engine for any nn.Module: it knows neither attention nor a dataset.

An objective says what is measured on a batch, and the engine does the rest: batches, updates, evaluation, the best
weights, and a folder from which a training that was killed goes on.

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

docs/engine.md goes through it; exports.py lists what can be imported from here.
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
        """Take a public name from exports.py, which is imported no earlier: no torch is needed before (PEP 562)."""
        if not name.startswith("__") or name == "__all__":
            exports = import_module("my_custom_ai.exports")
            if name == "__all__" or name in exports.__all__:
                return getattr(exports, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__getattr__("__all__")})
