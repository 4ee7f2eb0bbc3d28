"""The hook of mkdocs.yml: the same Markdown works on a page of the repository and on the site.

Some pages of the site stand outside docs/: the doctor's pages are part of the package, and README.md and others are in
the root. ``site_path`` says where the site has them, and links are rewritten to match.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DOCTOR = "concordant/doctor/pages"
# Pages that stand alone outside docs/, with their place on the site.
ALONE = {
    "README.md": "readme.md",
    "CHANGELOG.md": "changelog.md",
    "bench/results/amd-epyc/README.md": "bench-results.md",
}

_FENCE = re.compile(r"^(```.*?^```[^\n]*$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_CODE_IN_TABLE = re.compile(r"`[^`\n]*`")


def site_path(path: str) -> str | None:
    """Where the site has the file ``path`` of the repository; None if the file is not part of the site."""
    if path in ALONE:
        return ALONE[path]
    file = PurePosixPath(path)
    if str(file.parent) == DOCTOR and file.suffix == ".md":
        return f"doctor/{file.name}"
    return str(file.relative_to("docs")) if file.is_relative_to("docs") else None


def repository_path(uri: str) -> str:
    """The inverse of ``site_path``: the file of the repository that the site has at ``uri``."""
    alone = {place: path for path, place in ALONE.items()}
    if uri in alone:
        return alone[uri]
    page = PurePosixPath(uri)
    return f"{DOCTOR}/{page.name}" if str(page.parent) == "doctor" else f"docs/{uri}"


def rewritten(markdown: str, uri: str) -> str:
    """The page at ``uri`` with links that work on the site. Blocks of code stay as they are."""
    parts = _FENCE.split(markdown)
    return "".join(part if i % 2 else _tables(_LINK.sub(lambda m: _link(m, uri), part)) for i, part in enumerate(parts))


def _link(match: re.Match[str], uri: str) -> str:
    image, text, target = match.groups()
    path, hash_mark, anchor = target.partition("#")
    if not path or re.match(r"[a-z]+:", path):
        return match[0]
    found = normpath(f"{PurePosixPath(repository_path(uri)).parent}/{path}")
    place = site_path(found)
    if place is None:  # a source file: its name is enough
        return text
    return f"{image}[{text}]({relpath(place, str(PurePosixPath(uri).parent))}{hash_mark}{anchor})"


def _tables(text: str) -> str:
    """A forge wants a pipe inside code in a table escaped; Python-Markdown shows the backslash."""
    rows = text.split("\n")
    whole = [
        _CODE_IN_TABLE.sub(lambda m: m[0].replace("\\|", "|"), row) if row.startswith("|") else row for row in rows
    ]
    return "\n".join(whole)


def anchor(text: str, separator: str) -> str:
    """The id of a heading, as a forge gives it."""
    return re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", separator)


# -- called by mkdocs -----------------------------------------------------------------------------


def on_config(config: Any) -> Any:
    config["mdx_configs"].setdefault("toc", {})["slugify"] = anchor
    return config


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    pages = [*ALONE, *(f"{DOCTOR}/{page.name}" for page in sorted((ROOT / DOCTOR).glob("*.md")))]
    for path in pages:
        files.append(File.generated(config, site_path(path), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    return rewritten(markdown, page.file.src_uri)
