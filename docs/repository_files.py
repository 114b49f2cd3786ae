"""A hook of MkDocs: files of the repository that pages link to, but which lie outside of docs/, go along with the site.

Pages link as they must to work in the repository, such as `../../results/published/law/law.png`. On the site such a file
lies under `repository/`; a Markdown file there is a page like the others, and what it links to goes along, too.
"""

import re
from pathlib import Path
from posixpath import normpath, relpath

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
_OUTSIDE = "repository/"
# What stands between the parentheses of a link: an address here, and an anchor in it.
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)(?=[)#])")


def _place(file: File) -> str:
    """The path of a file of the site in the repository."""
    return file.src_uri.removeprefix(_OUTSIDE) if file.src_uri.startswith(_OUTSIDE) else f"docs/{file.src_uri}"


def _target(address: str, file: File) -> str:
    """The path in the repository that a link in a file means."""
    return normpath(f"{_place(file)}/../{address}")


def on_files(files: Files, config) -> Files:
    """Adds the files outside of docs/ that pages link to, and those that these link to."""
    pending = [file for file in files if file.is_documentation_page()]
    while pending:
        file = pending.pop()
        for address in _LINK.findall(Path(file.abs_src_path).read_text(encoding="utf-8")):
            target = _target(address, file)
            name = _OUTSIDE + target
            if not target.startswith("docs/") and (ROOT / target).is_file() and not files.get_file_from_path(name):
                added = File.generated(config, name, abs_src_path=str(ROOT / target))
                files.append(added)
                pending += [added] if added.is_documentation_page() else []
    return files


def on_page_content(html: str, page, config, files: Files) -> str:
    """Makes pictures links to themselves: a column of text may be too narrow for them."""
    return re.sub(r'(?<!">)<img [^>]*src="([^"]+)"[^>]*>', r'<a href="\1">\g<0></a>', html)


def on_page_markdown(markdown: str, page, config, files: Files) -> str:
    """Turns links of the repository into links of the site."""

    def on_site(match: re.Match) -> str:
        target = _target(match[1], page.file)
        uri = target.removeprefix("docs/") if target.startswith("docs/") else _OUTSIDE + target
        return relpath(uri, f"{page.file.src_uri}/..")

    return _LINK.sub(on_site, markdown)
