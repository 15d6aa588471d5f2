"""What MkDocs does not do by itself: pages made from a notebook, a README and the public names.

- `configs/README.md` is the page `all_configs.md`.
- `notebooks/X.ipynb` is the page `notebooks/X.md`, with its outputs.
- A link to a notebook leads to that page.
- A link to a file outside `docs/` becomes the file's path. On GitHub it stays a link.
- `<!-- api -->` becomes the reference of the names in `mask_rcnn_ext.__all__`.
"""

import base64
import json
import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_REPO = Path(__file__).resolve().parents[1]
_ALL_CONFIGS = "all_configs.md"
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?:|mailto:|#)([^)\s]+)\)")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that are made from files which MkDocs does not read."""
    text = (_REPO / "configs/README.md").read_text("utf-8")
    files.append(File.generated(config, _ALL_CONFIGS, content=rewrite_links(text, "configs")))
    for path in sorted(Path(config.docs_dir).glob("notebooks/*.ipynb")):
        name = path.relative_to(config.docs_dir).with_suffix("").as_posix()
        page, pictures = render_notebook(json.loads(path.read_text("utf-8")), name)
        files.append(File.generated(config, f"{name}.md", content=page))
        for source, content in pictures.items():
            files.append(File.generated(config, source, content=content))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace links that leave `docs/`, and the mark of the API page."""
    folder = posixpath.dirname(f"docs/{page.file.src_uri}")
    if page.file.src_uri == "models.md":  # its wide table needs the place of the contents
        page.meta["hide"] = ["toc"]
    if "<!-- api -->" in markdown:
        markdown = markdown.replace("<!-- api -->", render_api())
    return rewrite_links(markdown, folder) if page.file.src_uri != _ALL_CONFIGS else markdown


def rewrite_links(markdown: str, folder: str) -> str:
    """Return the page with its links to files of the repository changed to what the site has.

    Args:
        markdown: the page.
        folder: the folder of the page in the repository; links are relative to it.

    Raises:
        PluginError: a link outside `docs/` leads to no file.
    """

    def replace(match: re.Match[str]) -> str:
        text, target = match[1], match[2]
        path, _, anchor = target.partition("#")
        place = posixpath.normpath(posixpath.join(folder, path))
        if not path or place.startswith("docs/"):
            if folder == "configs":  # all_configs.md lies in docs/
                target = target.removeprefix("../docs/")
            return f"[{text}]({target.replace('.ipynb', '.md')})"
        if not (_REPO / place).exists():
            raise PluginError(f"{folder}: the link to {target} leads to no file")
        if place == "configs/README.md":
            return f"[{text}]({_ALL_CONFIGS}{'#' if anchor else ''}{anchor})"
        if text.strip("`/") in place:
            return f"`{text.strip('`')}`"
        return f"{text} (`{place}`)"

    return _LINK.sub(replace, markdown)


def render_notebook(notebook: dict[str, Any], name: str) -> tuple[str, dict[str, bytes]]:
    """Return the Markdown of a notebook, and its pictures: path in `docs/` -> content.

    Args:
        notebook: the content of the ipynb file.
        name: its path in `docs/`, without the suffix.
    """
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            for kind in ("jpeg", "png"):
                if picture := data.get(f"image/{kind}"):
                    path = f"{name}_{len(pictures)}.{kind}"
                    pictures[path] = base64.b64decode("".join(picture))
                    parts.append(f"![Output of the cell above]({os.path.basename(path)})")
            text = "".join(output.get("text", ""))  # what the cell printed
            if text.strip():
                parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts) + "\n", pictures


def render_api() -> str:
    """Return a mkdocstrings block for each name in `mask_rcnn_ext.__all__`."""
    import mask_rcnn_ext

    blocks = []
    for name in sorted(mask_rcnn_ext.__all__, key=str.lower):
        value = getattr(mask_rcnn_ext, name)
        module = getattr(value, "__module__", None)
        path = f"{module}.{value.__qualname__}" if module else value.__name__
        options = f'{{heading: "{name}", toc_label: "{name}"}}'
        blocks.append(f"::: {path}\n    options: {options}\n")
    return "\n".join(blocks)
