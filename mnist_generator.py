"""Draw images with a trained generator: python mnist_generator.py --checkpoint mnist-gen-full-144."""

from dl_proj.cli import config_from, run_script
from dl_proj.experiments.images.generation.generate import draw_digits
from dl_proj.experiments.images.generation.settings import DrawConfig


def main(argv: list[str]) -> None:
    """Parse, draw."""
    draw_digits(config_from(DrawConfig, argv, preset="mnist_generator.yaml"))


if __name__ == "__main__":
    run_script(main)
