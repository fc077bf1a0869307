"""The tutorials: percent scripts in docs/tutorials, executed as notebooks beside them, and shown as pages.

``python -m website.notebooks docs/tutorials/*.py`` executes them.
"""

import argparse
import base64
import json
from pathlib import Path
from typing import Any

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def execute(script: Path) -> Path:
    """Run a script as a notebook and write it beside the script, with its outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    import jupytext
    from nbclient import NotebookClient

    notebook = jupytext.read(script)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"  # the same for each execution, for small differences between versions
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        startup_timeout=600,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(script.parent)}},
    )
    client.execute()
    notebook["metadata"] = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    for cell in notebook.cells:
        cell["metadata"].pop("execution", None)
    target = script.with_suffix(".ipynb")
    target.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return target


def as_page(notebook: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and its pictures by their names.

    A code cell's title, which stands behind ``# %%`` in the script, describes its picture to those who cannot see it.
    """
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif source:
            parts.append(f"```python\n{source}\n```")
            for output in cell["outputs"]:
                name = f"output_{notebook.stem}_{len(pictures) + 1}.png"
                if picture := output.get("data", {}).get("image/png"):
                    pictures[name] = base64.b64decode("".join(picture))
                    parts.append(f"![{cell['metadata'].get('title', 'Output of the cell above')}]({name})")
                elif text := _text_of(output):
                    parts.append(f"```text\n{text.rstrip()}\n```")
    script = notebook.with_suffix(".py").name
    parts.insert(1, f"This page is an executed notebook; its source is [{script}]({script}).")
    return "\n\n".join(parts) + "\n", pictures


def _text_of(output: dict[str, Any]) -> str:
    return "".join(output.get("text", output.get("data", {}).get("text/plain", "")))


def main() -> None:
    """Execute the scripts that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scripts", nargs="+", type=Path)
    for script in parser.parse_args().scripts:
        print(execute(script))


if __name__ == "__main__":
    main()
