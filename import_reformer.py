"""Import a Reformer of the transformers library: python import_reformer.py --source google/reformer-enwik8."""

from dl_proj.cli import config_from, run_script
from dl_proj.configs.importing import ImportReformerConfig
from dl_proj.tasks.reformer_import import import_reformer


def main(argv: list[str]) -> None:
    """Parse, import."""
    import_reformer(config_from(ImportReformerConfig, argv, preset="import_reformer.yaml"))


if __name__ == "__main__":
    run_script(main)
