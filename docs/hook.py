"""A hook of mkdocs: links from pages to other files of the repository lead to copies as text.

A page links to `../examples/quickstart.yaml`, which is right where the repository is read as files.
On the site the same file lies at `source/examples/quickstart.yaml.txt`, so that a browser shows it.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_OUTSIDE = re.compile(r"\]\(\.\./([^)#]+)\)")


def _copy_of(path: str) -> str:
    return f"source/{path.rstrip('/')}.txt"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a copy of each file that a page links to outside of the documentation."""
    docs = Path(config.docs_dir)
    pages = [file.content_string for file in files.documentation_pages()]
    for path in sorted({path for text in pages for path in _OUTSIDE.findall(text)}):
        # What is not there stays a broken link, which a strict build reports.
        if (docs.parent / path).is_file():
            text = (docs.parent / path).read_text("utf-8")
            files.append(File.generated(config, _copy_of(path), content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let the links of a page lead to the copies."""
    return _OUTSIDE.sub(lambda found: f"]({_copy_of(found[1])})", markdown)
