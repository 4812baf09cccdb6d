"""Draw the code's imports as Graphviz text: the relay's modules in layers, the rest as folders.

The layers are those of the docstring of `relay/__init__.py`: a paragraph that begins with a word
and a colon is a layer, and the modules in backticks in it are the layer's.
"""

from __future__ import annotations

import ast
import html
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

Graph = dict[str, set[str]]

# What stands beside the functions, where there is such a folder. Tests import everything.
_UNDEPLOYED = ("local", "bench")

_LAYER = re.compile(r"([A-Z][a-z]+): ")
_LINE_CHARACTERS = 26
_COLUMNS = 4
_HEAD = """\
// title: The code of the relay
// desc: Which module imports which. On top are the functions, below them the modules of relay/ in \
layers: {layers}. Each imports only from its own layer and from those below it. At the bottom is \
what is never deployed.
// Written by ./dev diagrams from the code's imports; the layers are those of relay/__init__.py.
digraph code {{
graph [bgcolor="#ffffff" color="#d0d7de" fillcolor="#f6f8fa" \
fontname="Helvetica,Arial,sans-serif" newrank=true nodesep=0.11 pad=0.1 rankdir=LR ranksep=0.3 \
style="rounded,filled"]
node [color="#8c959f" fillcolor="#ffffff" fontcolor="#1f2328" \
fontname="Helvetica,Arial,sans-serif" fontsize=13 height=0.5 margin=0 shape=box \
style="rounded,filled" width=1.85]
edge [arrowsize=0.6 color="#57606a"]"""


class DiagramError(Exception):
    """Say what cannot be drawn, and what would be right."""


class _Module(NamedTuple):
    """One file.

    Args:
        name: what others import it as; nobody imports a function's.
        node: what it is part of in the diagram: itself, in relay/, or else its folder.
    """

    name: str
    node: str
    path: Path


def code_dot(root: Path) -> str:
    """Return the diagram of the code of a repository.

    Imports from the next column of a group are arrows; others are named in the importer's box, so
    that no arrow passes a box. What follows from others is left out: whoever imports `events`
    imports `problems` as well.

    Raises:
        DiagramError: a module is in no layer, or imports from a layer above its own.
    """
    modules = list(_modules(root))
    layers = _layers(root)
    imports = _imports(modules)
    _check(layers, imports)
    groups = {
        "functions/": [node for node in imports if node.startswith("functions/")],
        **{rf"relay/\n{title.lower()}": nodes for title, nodes in layers.items()},
        r"never\ndeployed": [node for node in imports if node.split("/")[0] in _UNDEPLOYED],
    }
    group_of = {node: group for group, nodes in groups.items() for node in nodes}
    needed = reduced(imports)
    arrows = _arrows(needed, group_of)
    labels: dict[str, str] = {}
    for module in modules:
        labels.setdefault(module.node, _label(module, needed[module.node] - arrows[module.node]))
    lines = [_HEAD.format(layers=", ".join(layers).lower())]
    for group, nodes in reversed(groups.items()):  # Graphviz builds them up from the bottom
        lines += _cluster(group, {node: labels[node] for node in nodes}, arrows)
    return "\n".join([*lines, *_stacked(list(groups)), "}", ""])


def reduced(graph: Graph) -> Graph:
    """Leave out each edge that a longer way makes superfluous; none of a circle or into one is."""
    below = {node: _reachable(graph, node) for node in graph}

    def superfluous(node: str, other: str) -> bool:
        return any(
            other in below[via] and via not in below[other] and node not in below[via]
            for via in graph[node] - {other}
        )

    return {
        node: {other for other in others if not superfluous(node, other)}
        for node, others in graph.items()
    }


def _reachable(graph: Graph, start: str) -> set[str]:
    seen: set[str] = set()
    ahead = [start]
    while ahead:
        found = graph[ahead.pop()] - seen
        seen |= found
        ahead += found
    return seen


def _modules(root: Path) -> Iterator[_Module]:
    """Find the code that is drawn."""
    for path in sorted(root.glob("relay/[!_]*.py")):
        yield _Module(f"relay.{path.stem}", f"relay.{path.stem}", path)
    for path in sorted(root.glob("functions/*/function/main.py")):
        function = path.parts[-3]
        yield _Module(f"functions.{function}", f"functions/{function}/", path)
    for path in sorted(path for name in _UNDEPLOYED for path in root.glob(f"{name}/**/*.py")):
        file = path.relative_to(root)
        parts = file.parent.parts if path.stem == "__init__" else file.with_suffix("").parts
        package = next(folder for folder in path.parents if (folder / "__init__.py").exists())
        yield _Module(".".join(parts), f"{package.relative_to(root).as_posix()}/", path)


def _imports(modules: Sequence[_Module]) -> Graph:
    """Tell which node imports from which others."""
    nodes = {module.name: module.node for module in modules}
    graph: Graph = {node: set() for node in nodes.values()}
    for module in modules:
        imported = {nodes[name] for name in _imported(module.path) if name in nodes}
        graph[module.node] |= imported - {module.node}
    return graph


def _imported(path: Path) -> Iterator[str]:
    """Name what a file imports: modules, and what may be one or something in one."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _arrows(needed: Graph, group_of: Mapping[str, str]) -> Graph:
    """Choose the imports that lead to the next column; those of a circle have no better place."""
    below = {node: _reachable(needed, node) for node in needed}

    def column(node: str) -> int:
        importers = (
            other
            for other in needed
            if node in needed[other]
            and group_of[other] == group_of[node]
            and other not in below[node]
        )
        return 1 + max(map(column, importers), default=0)

    return {
        node: {
            other
            for other in others
            if group_of[other] == group_of[node]
            and (node in below[other] or column(other) == column(node) + 1)
        }
        for node, others in needed.items()
    }


def _layers(root: Path) -> dict[str, list[str]]:
    """Read the relay's layers, the uppermost first."""
    return {
        title[1]: [f"relay.{name}" for name in re.findall(r"`(\w+)`", paragraph)]
        for paragraph in _docstring(root / "relay/__init__.py").split("\n\n")
        if (title := _LAYER.match(paragraph))
    }


def _check(layers: Mapping[str, Sequence[str]], imports: Graph) -> None:
    depth = {node: index for index, nodes in enumerate(layers.values()) for node in nodes}
    modules = {node for node in imports if node.startswith("relay.")}
    for node in sorted(modules - set(depth)):
        raise DiagramError(
            f"{node} is in no layer: name it in one of the paragraphs of relay/__init__.py"
        )
    for node in sorted(set(depth) - modules):
        raise DiagramError(f"relay/__init__.py names {node}, and there is no such module")
    for node in sorted(modules):
        for other in sorted(imports[node]):
            if depth[other] < depth[node]:
                raise DiagramError(
                    f"{node} imports {other}, which relay/__init__.py has in a layer above it"
                )


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def _label(module: _Module, elsewhere: Iterable[str]) -> str:
    """Write a box: a name, what a folder is for, and what it uses besides what arrows lead to.

    Args:
        module: the first of the folder; its docstring speaks for it.
        elsewhere: what is imported without an arrow.
    """
    name, summary = module.node.removeprefix("relay."), ""
    if name == module.node:
        summary = _docstring(module.path).partition("\n")[0].rstrip(".")
    uses = ", ".join(sorted(node.removeprefix("relay.") for node in elsewhere))
    small = [html.escape(line) for line in textwrap.wrap(summary, _LINE_CHARACTERS)]
    if uses:
        lines = textwrap.wrap(f"uses {uses}", _LINE_CHARACTERS)
        small += [f"<i>{line}</i>" for line in lines]
    text = "<br/>".join(
        [f"<b>{name}</b>", *(f'<font point-size="10" color="#57606a">{s}</font>' for s in small)]
    )
    # Aligned to the left, it looks right in whatever font a reader has.
    cell = f'<td align="left" balign="left" width="126">{text}</td>'
    return f'<table border="0"><tr>{cell}</tr></table>'


def _cluster(group: str, labels: Mapping[str, str], arrows: Graph) -> Iterator[str]:
    """Draw a group: its title, to the right of it who imports, and then who is imported."""
    yield f'subgraph "cluster {group}" {{'
    yield f'"{group}" [fontcolor="#57606a" shape=plaintext style="" width=1.1]'
    yield f'"{group} end" [height=0 label="" style=invis width=0]'
    yield from (f'"{node}" [label=<{label}>]' for node, label in labels.items())
    yield "}"
    imported = {other for node in labels for other in arrows[node]}
    alone = 0
    for place, node in enumerate(labels):
        yield from (f'"{node}" -> "{other}"' for other in sorted(arrows[node]))
        if node in imported and place > 0:
            continue
        column = 1
        if not arrows[node]:  # those that nothing holds are spread over the columns
            column += alone % _COLUMNS
            alone += 1
        yield f'"{group}" -> "{node}" [minlen={column} style=invis weight=9]'


def _stacked(groups: Sequence[str]) -> Iterator[str]:
    """Put the groups below each other, the last one apart, and make them equally wide."""
    yield "{"
    yield "rank=same"
    for above, below in pairwise(groups):
        style = "style=invis" if below == groups[-1] else 'color="#0969da" penwidth=2'
        yield f'"{above}" -> "{below}" [{style}]'
    yield "}"
    ends = " ".join(f'"{group} end"' for group in groups)
    yield f"{{rank=max {ends}}}"
    yield f'"{groups[0]}" -> "{groups[0]} end" [minlen={_COLUMNS + 1} style=invis]'
