"""The synthetic copy task."""

from dl_proj.data.synth_dataset_builder.copy_dataset import SOS, CopyDataset

__all__ = ["SOS", "CopyDataset"]
