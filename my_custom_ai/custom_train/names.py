"""Options that are chosen by name. This file imports no torch, so that a configuration is read without delay."""

from typing import Literal

DeviceName = Literal["auto", "cuda", "mps", "cpu"]
Precision = Literal["no", "bf16", "fp16"]
MatmulPrecision = Literal["highest", "high"]
OptimizerName = Literal["adam", "adamw", "adafactor"]
Parallel = Literal["ddp", "fsdp"]
