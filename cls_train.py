"""Train an image classifier: python cls_train.py --config dl_proj/configs/cls_train.yaml."""

from dl_proj.cli import run_script, training_config
from dl_proj.experiments.images.classification.settings import ClassifierTrainConfig
from dl_proj.experiments.images.classification.train import train_classifier


def main(argv: list[str]) -> None:
    """Parse, build, train."""
    config, resume = training_config(ClassifierTrainConfig, argv, preset="cls_train.yaml")
    train_classifier(config, resume)


if __name__ == "__main__":
    run_script(main)
