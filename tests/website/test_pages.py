"""Pages as the site's generator reads them: what GitHub shows for a link, the site shows on a page of its own."""

import json
from pathlib import Path

import pytest

from website.notebooks import as_page
from website.pages import BrokenLinks, Pages, navigation


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name, text in {
        "docs/a.md": "[b](guides/b.md#here) [x](../code/x.py) [all](../code) [r](../README.md) [log](../CHANGELOG.md)",
        "docs/guides/b.md": "![p](../results/p.png) [t](../results/t.csv) [out](https://example.org) `[no](no.md)`",
        "docs/results/p.png": "picture",
        "docs/results/t.csv": 'name,score\n"a, <b>",0.5\n',
        "code/x.py": "x = '```'\n",
        "code/deep/y.py": "",
        "README.md": "",
        "CHANGELOG.md": "[a](docs/a.md)",
        "CONTRIBUTING.md": "",
        "website/extra.css": "p {}",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "code/weights.bin").write_bytes(b"\xff\x00")
    return tmp_path


def written(repository: Path) -> dict[str, str]:
    target = repository / "build/pages"
    Pages(repository, target).write()
    return {path.relative_to(target).as_posix(): path.read_text() for path in target.rglob("*") if path.is_file()}


def test_links_lead_to_pages_that_show_what_is_there(repository: Path) -> None:
    pages = written(repository)
    assert pages["a.md"] == (
        "[b](guides/b.md#here) [x](files/code/x.py.md) [all](files/code/index.md) [r](index.md) [log](changelog.md)"
    )
    assert pages["changelog.md"] == "[a](a.md)"
    assert pages["guides/b.md"] == (
        "![p](../results/p.png) [t](../files/docs/results/t.csv.md) [out](https://example.org) `[no](no.md)`"
    )
    assert pages["results/p.png"] == "picture"


def test_pages_are_made_of_files_and_folders(repository: Path) -> None:
    pages = written(repository)
    assert "x = '```'\n" in pages["files/code/x.py.md"] and "python" in pages["files/code/x.py.md"]
    assert "<td>a, &lt;b&gt;</td><td>0.5</td>" in pages["files/docs/results/t.csv.md"]
    listed = [line for line in pages["files/code/index.md"].splitlines() if line.startswith("- ")]
    assert listed == ["- `deep/`", "- `weights.bin`", "- [`x.py`](x.py.md)"]


def test_what_is_gone_is_not_kept(repository: Path) -> None:
    written(repository)
    (repository / "docs/a.md").unlink()
    (repository / "CHANGELOG.md").write_text("")
    assert "a.md" not in written(repository)


def test_broken_links_are_refused_with_their_places(repository: Path) -> None:
    (repository / "docs/a.md").write_text("Text\n\n[b](b.md) [c](../../c.md)\n")
    with pytest.raises(BrokenLinks) as refused:
        written(repository)
    assert [line.partition(" ")[0] for line in str(refused.value).splitlines()] == ["docs/a.md:3:"] * 2


def test_navigation_is_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "mkdocs.yml").write_text(
        "nav: [a.md, B: b.md, C: [c.md, D: [d.md]], E: e.md]\nx: !!python/object/apply:os.getcwd []\n"
    )
    assert [*navigation(tmp_path)] == ["a.md", "b.md", "c.md", "d.md", "e.md"]


def test_a_notebook_becomes_a_page_with_its_outputs(tmp_path: Path) -> None:
    picture = {"output_type": "display_data", "data": {"image/png": "cGljdHVyZQ==", "text/plain": "<Figure>"}}
    printed = {"output_type": "stream", "text": ["a\n", "b\n"]}
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "text"]},
        {"cell_type": "code", "source": "x", "metadata": {"title": "Curves"}, "outputs": [printed, picture]},
        {"cell_type": "markdown", "source": "end"},
    ]
    (tmp_path / "n.ipynb").write_text(json.dumps({"cells": cells}))
    text, pictures = as_page(tmp_path / "n.ipynb")
    assert text.startswith("# Title\ntext\n")
    assert text.endswith("```python\nx\n```\n\n```text\na\nb\n```\n\n![Curves](output_n_1.png)\n\nend\n")
    assert pictures == {"output_n_1.png": b"picture"}
