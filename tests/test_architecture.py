"""The house's walls, read from its imports, and its public face, read in a fresh interpreter."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

import generic_logits

PACKAGE = "generic_logits"
ROOT = Path(generic_logits.__file__).parent

PUBLIC_NAMES = [
    "Anchors",
    "CalibrateConfig",
    "DistillConfig",
    "EvaluateConfig",
    "GenericForCausalLM",
    "GenericLogitsError",
    "GenericLogitsProcessor",
    "ModelPair",
    "ReinforceConfig",
    "Report",
    "TargetsConfig",
    "UnlearnConfig",
    "calibrate",
    "compute_targets",
    "correct_logits",
    "distill",
    "evaluate",
    "find_anchors",
    "reinforce",
    "translate",
    "unlearn",
]

FLOORS = {
    "ops": 0,
    "models": 1,
    "text": 1,
    "discovery": 2,
    "training": 3,
    "evaluation": 4,
    "vllm": 3,
    "demo.world": 3,  # texts and models, and who reads them: what measures itself on them stands above
    "demo": 5,
    "cli": 6,
}
ROOF = ("__init__", "__main__")  # the package's doors: they may import everything, and nothing imports them
OWNERS = {"vllm": "vllm/", "triton": "ops/fused_triton.py"}  # the only code that may import a heavy package
HEAVY = {"peft", "torch", "transformers", "transformers.trainer", "triton", "vllm"}


class Place(NamedTuple):
    floor: int
    room: str


class Import(NamedTuple):
    source: str  # file, relative to the package
    line: int
    target: str  # dotted name


# Reading


def module_files(root: Path) -> dict[str, Path]:
    """Every module of the package at ``root`` by its dotted name, packages by theirs."""
    files = {}
    for path in sorted(root.rglob("*.py")):
        parts = [root.name, *path.relative_to(root).with_suffix("").parts]
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


def imports_of(path: Path, root: Path, modules: dict[str, Path]) -> Iterator[Import]:
    """Every import in a file, wherever it stands: at the top, in a function, under TYPE_CHECKING, by name."""
    source = path.relative_to(root).as_posix()
    package = [root.name, *path.relative_to(root).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(source, node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                if (base, alias.name) != (root.name, "__version__"):  # a constant, known before any import
                    submodule = f"{base}.{alias.name}"
                    yield Import(source, node.lineno, submodule if submodule in modules else base)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function, name = ast.unparse(node.func), node.args[0].value
            if function.split(".")[-1] in ("import_module", "__import__") and isinstance(name, str):
                yield Import(source, node.lineno, name)


def all_imports(root: Path) -> list[Import]:
    modules = module_files(root)
    return [found for path in modules.values() for found in imports_of(path, root, modules)]


def place(module: str) -> Place | None:
    """Where a module stands; None if the house has no such room."""
    _, *parts = module.split(".")
    if not parts or parts[0] in ROOF:
        return Place(max(FLOORS.values()) + 1, "roof")
    for room in (".".join(parts[:2]), parts[0]):
        if room in FLOORS:
            return Place(FLOORS[room], room)
    if parts[0] == "errors" or parts[0].startswith("_"):
        return Place(0, "helpers")
    return None


def is_inside(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def module_name(source: str, root: Path) -> str:
    return ".".join([root.name, *Path(source).with_suffix("").parts]).removesuffix(".__init__")


# Checking: each function gives its complaints, and none when all is well


def homeless(root: Path) -> list[str]:
    return [f"{module} has no floor" for module in module_files(root) if place(module) is None]


def floor_breaches(root: Path) -> list[str]:
    """Imports that go up, or across to another room of the same floor. Every floor may use the helpers."""
    breaches = []
    for source, line, target in all_imports(root):
        here, there = place(module_name(source, root)), place(target)
        if not is_inside(target, root.name) or here is None or there is None:
            continue
        if not (there.floor < here.floor or there.room in (here.room, "helpers")):
            rooms = f"{here.room}, floor {here.floor}, from {there.room}, floor {there.floor}"
            breaches.append(f"{source}:{line} imports {target} ({rooms})")
    return breaches


def circles(root: Path) -> list[str]:
    """Chains of imports that come back to where they began, one for each module that closes one."""
    modules = module_files(root)
    graph: dict[str, list[str]] = {module: [] for module in modules}
    for source, _, target in all_imports(root):
        if target in graph and place(target) != place(root.name):
            graph[module_name(source, root)].append(target)

    found, done = [], set()

    def visit(module: str, chain: list[str]) -> None:
        if module in chain:
            found.append(" -> ".join([*chain[chain.index(module) :], module]))
        elif module not in done:
            for target in graph[module]:
                visit(target, [*chain, module])
            done.add(module)

    for module in graph:
        visit(module, [])
    return found


def trespasses(root: Path) -> list[str]:
    """Imports of a heavy package from anywhere but the code that owns it."""
    return [
        f"{source}:{line} imports {target}, which belongs to {owner}"
        for source, line, target in all_imports(root)
        for package, owner in OWNERS.items()
        if is_inside(target, package) and not source.startswith(owner)
    ]


def face_faults(module: ModuleType, expected: list[str]) -> list[str]:
    """Where ``__all__`` and the expected names part, and which names lead nowhere or are kept out of ``dir()``."""
    names = list(module.__all__)
    faults = [f"{name} is public but not expected" for name in sorted({*names} - {*expected})]
    faults += [f"{name} is expected but not public" for name in sorted({*expected} - {*names})]
    faults += [f"{name} stands twice" for name in sorted({name for name in names if names.count(name) > 1})]
    faults += [f"{name} is not in dir()" for name in names if name not in dir(module)]
    for name in names:
        try:
            getattr(module, name)
        except (AttributeError, ImportError) as error:
            faults.append(f"{name} does not resolve: {error}")
    return faults


def loaded_heavy(root: Path) -> set[str]:
    """The heavy packages that importing the package at ``root`` loads in a fresh interpreter."""
    code = f"import json, sys, {root.name}; print(json.dumps([{root.name}.__file__, *sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(root.parent)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    file, *loaded = json.loads(done.stdout)
    assert Path(file).resolve().parent == root.resolve()
    return HEAVY & set(loaded)


# The house as it stands


@pytest.mark.parametrize("check", [homeless, floor_breaches, circles, trespasses])
def test_the_walls_stand(check):
    assert check(ROOT) == []


def test_the_reader_sees_the_house():
    imports = all_imports(ROOT)
    assert ("__main__.py", f"{PACKAGE}.cli") in {(found.source, found.target) for found in imports}
    assert any(found.target == "torch" for found in imports)


def test_the_public_names_are_exactly_these():
    assert face_faults(generic_logits, PUBLIC_NAMES) == []


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = generic_logits.nonsense


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_heavy(ROOT) == set()


# Each check can fail


def tree(folder: Path, files: dict[str, str]) -> Path:
    """Write a package of the given files, named ``house``."""
    root = folder / "house"
    for name, text in {"__init__.py": "", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def test_a_sound_tree_passes(tmp_path):
    files = {
        "__init__.py": "import house.cli",
        "__main__.py": "from house.cli import main",
        "errors.py": "",
        "_disk.py": "from house import __version__, errors",
        "ops/__init__.py": "from house.ops import reference",
        "ops/reference.py": "from house._disk import save",
        "ops/fused_triton.py": "import triton.language as tl",
        "models/pair.py": "from house.ops import correct_logits",
        "training/targets.py": "from ..models import pair\nfrom ..text import corpus",
        "text/corpus.py": "from ..errors import CorpusError",
        "vllm/model.py": "from vllm.config import VllmConfig\nfrom house.models.pair import ModelPair",
        "cli/__init__.py": "from . import main\nimport house.vllm.model",
        "cli/main.py": "import house.training.targets",
    }
    root = tree(tmp_path, files)
    assert [fault for check in (homeless, floor_breaches, circles, trespasses) for fault in check(root)] == []


@pytest.mark.parametrize("name", ["extra.py", "attic/chest.py"])
def test_a_homeless_module_is_reported(tmp_path, name):
    (complaint,) = homeless(tree(tmp_path, {name: ""}))
    assert "has no floor" in complaint


@pytest.mark.parametrize(
    ("name", "text", "target"),
    [
        ("ops/a.py", "import house.models.pair", "house.models.pair"),
        ("ops/a.py", "from house import models", "house.models"),
        ("ops/a.py", "from house import correct_logits", "house"),
        ("ops/a.py", "def f():\n    from ..models import pair", "house.models.pair"),
        ("ops/a.py", "if TYPE_CHECKING:\n    from ..models.pair import Pair", "house.models.pair"),
        ("ops/a.py", "importlib.import_module('house.models.pair')", "house.models.pair"),
        ("errors.py", "from .ops import check", "house.ops"),
        ("_disk.py", "import house.text.corpus", "house.text.corpus"),
        ("_disk.py", "import house.__main__", "house.__main__"),
        ("models/a.py", "from house.text import corpus", "house.text.corpus"),
        ("training/a.py", "from house.evaluation import report", "house.evaluation.report"),
        ("training/a.py", "from house import vllm", "house.vllm"),
        ("vllm/a.py", "import house.training", "house.training"),
        ("demo/a.py", "from ..cli import main", "house.cli"),
    ],
)
def test_an_import_up_or_across_is_reported(tmp_path, name, text, target):
    others = ["ops", "models", "text", "discovery", "training", "evaluation", "vllm", "demo", "cli"]
    files = {f"{room}/__init__.py": "" for room in others}
    files |= {"models/pair.py": "", "text/corpus.py": "", "evaluation/report.py": "", "__main__.py": ""}
    (complaint,) = floor_breaches(tree(tmp_path, {**files, name: text}))
    assert complaint.startswith(f"{name}:") and f" imports {target} " in complaint


@pytest.mark.parametrize(
    "files",
    [
        {"ops/a.py": "from house.ops import b", "ops/b.py": "from .a import f"},
        {"ops/__init__.py": "from house.ops import a", "ops/a.py": "from house.ops import f"},
        {"_a.py": "import house._b", "_b.py": "import house._c", "_c.py": "def f():\n    import house._a"},
    ],
)
def test_a_circle_is_reported(tmp_path, files):
    (complaint,) = circles(tree(tmp_path, files))
    first, *_, last = complaint.split(" -> ")
    assert first == last


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("models/a.py", "import vllm"),
        ("models/a.py", "def f():\n    from vllm.config import VllmConfig"),
        ("ops/fused_torch.py", "import triton.language as tl"),
        ("vllm/a.py", "from triton import jit"),
    ],
)
def test_a_trespass_is_reported(tmp_path, name, text):
    (complaint,) = trespasses(tree(tmp_path, {name: text}))
    assert complaint.startswith(f"{name}:") and "which belongs to" in complaint


def test_a_false_face_is_reported():
    face = ModuleType("face")
    face.__all__ = ["extra", "gone", "gone", "kept"]
    face.extra = face.kept = None
    assert face_faults(face, ["gone", "kept", "wanted"]) == [
        "extra is public but not expected",
        "wanted is expected but not public",
        "gone stands twice",
        "gone is not in dir()",
        "gone is not in dir()",
        "gone does not resolve: module 'face' has no attribute 'gone'",
        "gone does not resolve: module 'face' has no attribute 'gone'",
    ]


@pytest.mark.parametrize("heavy", sorted(HEAVY))
def test_a_heavy_import_is_reported(tmp_path, heavy):
    outer, _, inner = heavy.partition(".")
    root = tree(tmp_path, {"__init__.py": f"import {heavy}"})
    stand_in = tmp_path / outer
    stand_in.mkdir()
    for module in ("__init__", *filter(None, [inner])):
        (stand_in / f"{module}.py").touch()
    assert loaded_heavy(root) == {outer, heavy}
