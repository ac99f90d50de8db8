"""The order of the house: imports go down, files are small, what is public is documented."""

import ast
from pathlib import Path

import pytest

import pyro_vae

ROOT = Path(pyro_vae.__file__).parent

FLOORS = [
    [
        "registry",
        "checks",
        "supports",
        "closures",
        "param_store",
        "distributions",
        "pareto",
        "networks",
        "datasets",
    ],
    ["kl"],
    ["families"],
    ["observations", "vae", "hierarchical"],
    ["infer"],
    ["diagnostics"],
    ["inference_data", "plots"],
    ["imputation"],
    ["comparison"],
    ["training"],
    ["pairings"],
    ["saved"],
    ["report"],
    ["cli", "__main__"],
]
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

# within a floor: what is registered needs the registry, a VAE looks at its data
SIDEWAYS = {(room, "registry") for room in FLOORS[0]} | {
    ("vae", "observations"),
    ("hierarchical", "vae"),
    ("__main__", "cli"),
}

# names of the face that are no rooms; `__version__` is a number, and needs nothing
FACE = {"pyro_vae"} | {f"pyro_vae.{name}" for name in pyro_vae.__all__ if name not in FLOOR_OF}

# downwards, and yet never
NEVER = {
    ("families", "kl"): "a family does not know what a KL is",
    ("vae", "kl"): "the heart depends on Pyro, supports and the families alone",
    ("observations", "kl"): "the heart depends on Pyro, supports and the families alone",
    ("hierarchical", "kl"): "the heart depends on Pyro, supports and the families alone",
    ("diagnostics", "vae"): "diagnostics take any model and guide",
    ("diagnostics", "hierarchical"): "diagnostics take any model and guide",
    ("diagnostics", "observations"): "diagnostics take any model and guide",
}


def modules():
    return sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def label(path):
    return str(path.relative_to(ROOT).with_suffix("")).replace("/", ".")


def room_of(dotted):
    """`pyro_vae.kl.table` stands in the room `kl`; None is the face, or not ours."""
    parts = dotted.split(".")
    return parts[1] if parts[0] == "pyro_vae" and len(parts) > 1 else None


def imports(tree):
    """Every import of the package's own modules, wherever in the file it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module == "pyro_vae":
                yield from (f"pyro_vae.{alias.name}" for alias in node.names)
            else:
                yield node.module


def objections(room, tree):
    """What the order of the house has against the imports of a module in `room`."""
    for dotted in imports(tree):
        if dotted in FACE:
            yield f"imports {dotted}, of the package's face, which stands above every room"
            continue
        target = room_of(dotted)
        if target is None or target == room:
            continue
        if target not in FLOOR_OF:
            yield f"{dotted} is no room of the house"
        elif (room, target) in NEVER:
            yield f"imports {target}: {NEVER[room, target]}"
        elif (room, target) not in SIDEWAYS and FLOOR_OF[target] >= FLOOR_OF[room]:
            yield f"imports {target}, which is not on an earlier floor"


def parsed(path):
    return ast.parse(path.read_text())


each_module = pytest.mark.parametrize("path", modules(), ids=label)


@each_module
def test_imports_go_down(path):
    room = label(path).split(".")[0]
    assert room in FLOOR_OF, f"{room} has no floor; give it one in FLOORS"
    assert list(objections(room, parsed(path))) == []


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("kl", "from pyro_vae.families import Normal"),
        ("families", "from pyro_vae import kl"),
        ("families", "from pyro_vae.kl.table import route"),
        ("vae", "import pyro_vae.infer"),
        ("vae", "def f():\n    from pyro_vae.kl import divergence"),
        ("diagnostics", "from pyro_vae.vae import VAE"),
        ("supports", "from pyro_vae.datasets import load"),
        ("datasets", "from pyro_vae import networks"),
        ("families", "from pyro_vae.attic import things"),
        ("training", "import pyro_vae"),
    ],
)
def test_an_import_that_goes_astray_is_caught(room, line):
    assert list(objections(room, ast.parse(line)))


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("datasets", "from pyro_vae.registry import Registry"),
        ("vae", "from pyro_vae.observations import masked"),
        ("comparison", "from pyro_vae import kl, families"),
        ("kl", "from pyro_vae.kl.table import route\nimport torch"),
    ],
)
def test_an_import_that_goes_down_is_not(room, line):
    assert not list(objections(room, ast.parse(line)))


@pytest.mark.parametrize("path", [*modules(), ROOT / "__init__.py"], ids=label)
def test_files_are_small(path):
    assert len(path.read_text().splitlines()) < 500


def public_names(tree):
    """The names in `__all__`, or None without one."""
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and "__all__" in ast.unparse(node):
            return ast.literal_eval(node.value)
    return None


@pytest.mark.parametrize("path", [*modules(), ROOT / "__init__.py"], ids=label)
def test_what_is_public_is_named_and_documented(path):
    tree = parsed(path)
    assert ast.get_docstring(tree), "a module says what it is about"
    if path.stem == "__main__":
        return
    names = public_names(tree)
    assert names is not None, "a module says what it offers, in __all__"
    assert len(names) == len(set(names))
    # of overloads, the last is the one that is called
    defined = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    bound = {
        name.id
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for name in ast.walk(node)
        if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
    } | {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(names) <= set(defined) | bound, "__all__ names what is not there"
    bare = [n for n in names if n in defined and not ast.get_docstring(defined[n])]
    assert not bare, "public, but without a docstring"
