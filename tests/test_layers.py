"""Arrows point one way: a room may import only rooms that stand before it."""

import ast
from pathlib import Path

import watermark

ROOT = Path(watermark.__file__).parent
ORDER = (
    ("child", "errors"),
    ("files", "keys"),
    ("chain", "prf", "sealed", "stats", "timestamps"),
    ("accounts", "chunks", "engine_config", "idlists", "markfile", "schemes", "scores"),
    ("ongpu",),
    ("tokenizer",),
    ("engine_readers", "mark", "prompts"),
    ("engines", "keyring", "ledger", "outputs", "testing"),
    ("embed", "observe"),
    ("probe",),
    ("access", "beforehand", "estimate", "evidence", "scale"),
    ("assess",),
    ("calibrate", "inforce", "plan", "scoring"),
    ("attribute", "detect", "watch"),
    ("conformance", "report"),
    ("bundle",),
    ("demo",),
)
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
TYPING_ONLY = {("tokenizer", "mark")}


def _room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def _imports(tree: ast.AST) -> set[str]:
    """Rooms of watermark imported anywhere outside `if TYPE_CHECKING`."""
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "watermark":
            parts = node.module.split(".")[1:]
            found |= {parts[0]} if parts else {alias.name for alias in node.names}
        if isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("watermark.")}
    return found


def _arrows() -> set[tuple[str, str]]:
    arrows = set()
    for path in ROOT.rglob("*.py"):
        if path == ROOT / "__init__.py":
            continue
        arrows |= {(_room(path), target) for target in _imports(ast.parse(path.read_text("utf-8")))}
    return {(a, b) for a, b in arrows if a != b}


def test_every_room_has_its_place():
    assert {_room(path) for path in ROOT.rglob("*.py")} - {"__init__"} == set(LEVEL)


def test_arrows_never_point_back():
    backward = sorted((a, b) for a, b in _arrows() if LEVEL[b] >= LEVEL[a])
    assert backward == []


def test_the_check_sees_a_backward_arrow():
    assert _imports(ast.parse("def f():\n    from watermark.report import render")) == {"report"}


def test_stats_is_an_island():
    assert {b for a, b in _arrows() if a == "stats"} == set()


def test_only_embed_and_demo_touch_a_model():
    for path in ROOT.rglob("*.py"):
        named = {n.name for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.ImportFrom)
                 for n in node.names}  # fmt: skip
        if named & {"AutoModelForCausalLM", "LlamaForCausalLM"}:
            assert _room(path) in {"embed", "demo"}, path


def test_library_never_imports_the_command_line():
    for path in ROOT.rglob("*.py"):
        assert "wmark_cli" not in path.read_text("utf-8"), path
