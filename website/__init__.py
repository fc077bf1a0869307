"""The documentation site: ``make docs`` builds it into build/site from the Markdown pages in docs.

pages.py prepares the pages, notebooks.py executes the tutorials and turns them into pages, mathematics.py and
docstrings.py extend the generator, and __main__.py runs all of it. mkdocs.yml configures the generator and holds the
navigation.
"""
