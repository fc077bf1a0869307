"""Fill the marked tables in README.md and docs from the committed results: python -m benchmarks.tables.

Nothing is measured. The pages that change are printed.
"""

import argparse
from pathlib import Path

from benchmarks.tables import baselines, costs, long_range, trained
from benchmarks.tables.pages import Table, pages, rendered
from benchmarks.tables.results import ROOT
from my_custom_ai.utils.files import write_text


def every_table() -> dict[str, Table]:
    """All tables, by name."""
    return trained.tables() | costs.tables() | baselines.tables() | long_range.tables()


def changed_pages() -> dict[Path, str]:
    """New text of the pages whose tables differ from the results."""
    tables = every_table()
    texts = {page: page.read_text(encoding="utf-8") for page in pages()}
    new = {page: rendered(text, tables) for page, text in texts.items()}
    return {page: text for page, text in new.items() if text != texts[page]}


def main() -> None:
    """Write the pages that change."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--print", metavar="NAME", choices=every_table(), help="print one table and write nothing")
    arguments = parser.parse_args()
    if arguments.print:
        print(every_table()[arguments.print]())
        return
    for page, text in changed_pages().items():
        write_text(page, text)
        print(f"written: {page.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
