"""Train a model on the copy task: python synth_train.py --config dl_proj/configs/synth_train.yaml."""

from dl_proj.cli import run_script, training_config
from dl_proj.experiments.copy.settings import SynthTrainConfig
from dl_proj.experiments.copy.train import train_to_copy


def main(argv: list[str]) -> None:
    """Parse, build, train."""
    config, resume = training_config(SynthTrainConfig, argv, preset="synth_train.yaml")
    train_to_copy(config, resume)


if __name__ == "__main__":
    run_script(main)
