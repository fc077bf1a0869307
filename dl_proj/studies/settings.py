"""Schema of performance_studies.py."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from dl_proj.settings.base import Strict
from dl_proj.studies.cost_settings import (
    Counts,
    DepthConfig,
    LengthConfig,
    LinformerStudyConfig,
    ModelStudyConfig,
    lists_mistakes,
)
from dl_proj.studies.pretrained_settings import PretrainedConfig
from my_custom_ai.custom_train.names import DeviceName

Study = Literal[
    "approximation", "equivariance", "reconstruction", "length", "linformer", "depth", "model", "pretrained"
]


class ApproximationConfig(Strict):
    """Error of a Performer's output against softmax attention (Choromanski et al. 2021, figure 4)."""

    length: int = Field(4096, ge=1)
    """approximation: number of tokens"""
    head_dim: int = Field(16, ge=1)
    """approximation: width of queries, keys and values, which are normally distributed"""
    scale: float = Field(0.3, gt=0)
    """approximation: standard deviation of queries and keys (of values, it is 1); larger ones need more features"""
    n_features: Counts = (16, 32, 64, 128, 256, 512)
    """approximation: points of the curves, even numbers of features"""
    samples: int = Field(15, ge=2)
    """approximation: number of draws of queries, keys, values and directions"""

    def mistakes(self) -> list[str]:
        """See Strict."""
        if not self.n_features or any(m % 2 for m in self.n_features):
            return [f"n_features {list(self.n_features)} must be even numbers: hyperbolic features come in pairs"]
        return []


class EquivarianceConfig(Strict):
    """Change of the output of attention with relative positions when all tokens are shifted (Horn et al. 2021)."""

    dim: int = Field(128, ge=1)
    """equivariance: width of the tokens"""
    heads: int = Field(4, ge=2)
    """equivariance: attention heads"""
    scale: float = Field(0.25, gt=0)
    """equivariance: standard deviation of the tokens; larger ones need more features"""
    side: int = Field(12, ge=1)
    """equivariance: side of the block of tokens that is shifted"""
    shift: int = Field(5, ge=1)
    """equivariance: shift in rows and columns"""
    n_features: Counts = (64, 256, 1024, 4096)
    """equivariance: points of the curves, numbers of features that are multiples of 4"""
    samples: int = Field(4, ge=2)
    """equivariance: number of draws of weights, tokens and directions"""

    def mistakes(self) -> list[str]:
        """See Strict."""
        found = []
        if self.dim % self.heads:
            found.append(f"dim {self.dim} must be divisible by heads {self.heads}")
        if not self.n_features or any(m % 4 for m in self.n_features):
            found.append(
                f"n_features {list(self.n_features)} must be multiples of 4: each direction is used in four rotations"
            )
        return found


class ReconstructionConfig(Strict):
    """Error of LSH attention's matrix against full shared query-key attention (Kitaev et al. 2020, section 2)."""

    length: int = Field(512, ge=2)
    """reconstruction: number of tokens"""
    head_dim: int = Field(64, ge=1)
    """reconstruction: width of the queries"""
    heads: int = Field(4, ge=1)
    """reconstruction: attention heads, each with its own queries and hashes"""
    scale: float = Field(8.0, gt=0)
    """reconstruction: standard deviation of the queries' entries; larger ones make attention sharper, since a score is
    about this times the queries' cosine"""
    memory: float = Field(16.0, gt=0)
    """reconstruction: queries follow an autoregressive process of order 1; tokens after which their correlation has
    fallen to 1/e"""
    bucket_sizes: Counts = (16, 32, 64, 128, 512)
    """reconstruction: bucket sizes, rows of the picture; one equal to the length is exact"""
    rounds: Counts = (1, 2, 4, 8)
    """reconstruction: hash rounds, columns of the picture"""
    causal: bool = False
    """reconstruction: a token attends only to itself and earlier tokens"""
    samples: int = Field(10, ge=2)
    """reconstruction: number of draws of queries and hashes"""

    def mistakes(self) -> list[str]:
        """See Strict."""
        found = lists_mistakes(self, "bucket_sizes", "rounds")
        return found + [
            f"bucket_sizes: {size} must be at most length {self.length}; {self.length} is already exact"
            for size in self.bucket_sizes
            if size > self.length
        ]


class PerformanceConfig(Strict):
    """Measure time, memory and error of the mechanisms."""

    studies: tuple[Study, ...] = ("approximation", "equivariance")
    """studies to run, in this order"""
    approximation: ApproximationConfig = ApproximationConfig()
    """Performer against softmax attention, by the number of features"""
    equivariance: EquivarianceConfig = EquivarianceConfig()
    """change under translation, by the number of features"""
    reconstruction: ReconstructionConfig = ReconstructionConfig()
    """LSH attention against full attention, by bucket size and rounds"""
    length: LengthConfig = LengthConfig()
    """time and memory of a layer, by length"""
    linformer: LinformerStudyConfig = LinformerStudyConfig()
    """savings of a Linformer, by length and rank"""
    depth: DepthConfig = DepthConfig()
    """memory of a stack, by number of layers"""
    model: ModelStudyConfig = ModelStudyConfig()
    """time and memory of whole models, by length"""
    pretrained: PretrainedConfig = PretrainedConfig()
    """a trained sentence encoder with other attention, before and after fine-tuning"""
    seed: int = Field(0, ge=0, lt=2**31)
    """seed of all random numbers"""
    device: DeviceName = "auto"
    """where to compute; auto picks the fastest device available"""
    output_dir: Path = Path("runs/performance_studies")
    """folder for each study's CSV, JSON and pictures"""

    def mistakes(self) -> list[str]:
        """See Strict."""
        found = lists_mistakes(self, "studies")
        return found + [
            f"{study}.variants is empty, needs at least one"
            for study in self.studies
            if not getattr(getattr(self, study), "variants", True)
        ]
