"""Train a generator of small images: python generation_train.py --config dl_proj/configs/gen_train.yaml."""

from dl_proj.cli import run_script, training_config
from dl_proj.experiments.images.generation.settings import GeneratorTrainConfig
from dl_proj.experiments.images.generation.train import train_generator


def main(argv: list[str]) -> None:
    """Parse, build, train."""
    config, resume = training_config(GeneratorTrainConfig, argv, preset="gen_train.yaml")
    train_generator(config, resume)


if __name__ == "__main__":
    run_script(main)
