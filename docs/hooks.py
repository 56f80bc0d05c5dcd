"""What MkDocs does besides the pages: the API, and texts that lie outside of docs/, not copied."""

import re
from pathlib import Path

import api_pages
from mkdocs.structure.files import File

DOCS = Path(__file__).parent
PAGES = {  # file at the top -> page of the site
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "launch/README.md": "pods.md",
}
INCLUDE = re.compile(r"<!-- include: \.\./(\S+) -->")


def on_config(config):
    """Sets the folder of the pages: that of mkdocs.yml, which MkDocs does not take from it."""
    config.docs_dir = str(DOCS)
    return config


def on_files(files, config):
    """Adds the pages of the API."""
    for path, text in api_pages.pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def included(found):
    """The text of a file at the top, without its title; links in it go to the pages."""
    text = (DOCS.parent / found[1]).read_text().partition("\n")[2]
    text = text.replace("](docs/", "](")
    for path, page in PAGES.items():
        text = text.replace(f"]({path})", f"]({page})")
    return text


def on_page_markdown(markdown, **_):
    """Replaces `<!-- include: ../FILE -->` by the file, and links to such files by their page."""
    for path, page in PAGES.items():
        markdown = markdown.replace(f"](../{path})", f"]({page})")
    return INCLUDE.sub(included, markdown)
