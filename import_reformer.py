"""Import a Reformer from the transformers library: python import_reformer.py --source google/reformer-enwik8."""

from dl_proj.commands import run_script

if __name__ == "__main__":
    run_script("import_reformer")
