"""Imports flow one way, and the page is up before torch is."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

TIERS = (
    {"engine.errors", "engine.settings"},
    {
        *{"engine.workspace", "engine.jobs", "engine.cache", "engine.recipe", "engine.images", "engine.samples"},
        "engine.fitting",
    },
    {"engine.families", "engine.adapters", "engine.lora", "engine.controls"},
    {"engine.starter"},
    {
        *{"engine.dataset", "engine.photo", "engine.captioning", "engine.training", "engine.presets"},
        *{"engine.memory", "engine.abilities", "engine.generation", "engine.start_picture", "engine.style_mask"},
        *{"engine.preview", "engine.scores"},
    },
    {"engine.consistency"},
    {"engine.studio"},
    {"engine.demo"},
    {"ui"},
    {"app"},
)
HEAVY = {"torch", "torchvision", "diffusers", "transformers", "peft", "controlnet_aux", "accelerate"}
TRAINERS = ("engine.starter", "engine.training")
"""Packages that only processes of their own import."""

FILES = sorted([*ROOT.glob("engine/**/*.py"), *ROOT.glob("ui/**/*.py"), *ROOT.glob("app.py")])
MODULES = {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in FILES}


def imported(tree: ast.AST) -> set[str]:
    """The modules that the tree imports: of `from a import b`, `a.b` where that is a module of ours, else `a`."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else str(node.module) for name in inner}
    return names


def imported_at_once(tree: ast.Module) -> set[str]:
    """As `imported`, of what runs when the module is imported: neither functions nor `if TYPE_CHECKING`."""

    class Remove(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None: ...

        def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None: ...

        def visit_If(self, node: ast.If) -> ast.AST | None:
            is_for_types = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
            return None if is_for_types else self.generic_visit(node)

    return imported(Remove().visit(tree))


def parse(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def tier(module: str) -> int:
    places = [n for n, names in enumerate(TIERS) if any(within(module, name) for name in names)]
    assert places, f"{module} has no place in TIERS"
    return places[0]


@pytest.mark.parametrize("module", [module for module in MODULES if module != "engine"])
class TestEveryModule:
    def test_has_its_place_and_imports_nothing_above_it(self, module: str) -> None:
        own = {name for name in imported(parse(module)) if name in MODULES and name != "engine"}
        assert not {name for name in own if tier(name) > tier(module)}

    def test_engine_knows_no_gradio(self, module: str) -> None:
        if within(module, "engine"):
            assert not {name for name in imported(parse(module)) if within(name, "gradio")}

    def test_heavy_libraries_wait_until_they_are_needed(self, module: str) -> None:
        if not any(within(module, trainer) for trainer in TRAINERS):
            assert not {name for name in imported_at_once(parse(module)) if name.split(".")[0] in HEAVY}


def test_no_cycles() -> None:
    graph = {module: {name for name in imported(parse(module)) if name in MODULES} - {module} for module in MODULES}
    TopologicalSorter(graph).prepare()


def test_the_facade_comes_up_without_heavy_libraries() -> None:
    check = f"import sys, engine.studio; assert not {HEAVY} & set(sys.modules), {HEAVY} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, cwd=ROOT)
