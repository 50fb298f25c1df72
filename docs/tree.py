"""Files of the tree that pages link to but that lie outside of docs/: they go onto the site under their own paths.

So a link such as `../examples/read_network.py` is right on a code host and on the site. Notebooks become pages.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

LINK = re.compile(r"(?<=\]\()(?:\.\./)+[^)#\s]+")
NOTEBOOKS = "examples/*.ipynb"


def outside(link: str, page: str) -> str | None:
    """The path in the tree of what `page` links to, where that lies outside of docs/."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link))
    return None if path.startswith("docs/") else path


@event_priority(100)  # before mkdocs-jupyter looks for notebooks
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is linked, and the notebooks."""
    tree = Path(config.docs_dir).parent
    paths = {path.relative_to(tree).as_posix() for path in tree.glob(NOTEBOOKS)}
    for page in files.documentation_pages():
        paths |= {path for link in LINK.findall(page.content_string) if (path := outside(link, page.src_uri))}
    for path in sorted(paths):
        files.append(File(path, str(tree), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links that leave docs/ point to where their files lie on the site."""
    del config, files
    folder = posixpath.dirname(page.file.src_uri)

    def moved(link: re.Match[str]) -> str:
        path = outside(link[0], page.file.src_uri)
        return link[0] if path is None else posixpath.relpath(path, folder or ".")

    return LINK.sub(moved, markdown)
