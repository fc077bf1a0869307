"""What can be chosen by name; this file imports no torch, so that a configuration is read at once."""

from typing import Literal

DeviceName = Literal["auto", "cuda", "mps", "cpu"]
Precision = Literal["no", "bf16", "fp16"]
MatmulPrecision = Literal["highest", "high"]
OptimizerName = Literal["adam", "adamw", "adafactor"]
