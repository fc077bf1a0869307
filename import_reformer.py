"""Import a Reformer of the transformers library: python import_reformer.py --source google/reformer-enwik8."""

from dl_proj.cli import config_from, run_script
from dl_proj.experiments.language.import_reformer import import_reformer
from dl_proj.experiments.language.import_settings import ImportReformerConfig


def main(argv: list[str]) -> None:
    """Parse, import."""
    import_reformer(config_from(ImportReformerConfig, argv, preset="import_reformer.yaml"))


if __name__ == "__main__":
    run_script(main)
