"""The sentences of docs/design.md that a machine can hold: who imports whom, and what starts without torch."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]

MAY_IMPORT = {
    "schemas": {"schemas"},
    "pipeline": {"schemas", "pipeline"},
    "trainer": {"schemas", "trainer"},
    "views": {"schemas", "pipeline", "views"},
}
HEAVY = {"torch", "transformers", "accelerate", "peft", "safetensors", "huggingface_hub"}
PACKAGES = {*MAY_IMPORT, "cli"}
MAX_LINES = 350


def imported_packages(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield (node.module or "").partition(".")[0]


def modules(package: str) -> list[Path]:
    return sorted((REPOSITORY / package).rglob("*.py"))


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_dependencies_point_one_way(package: str) -> None:
    assert modules(package)
    for path in modules(package):
        ours = PACKAGES & set(imported_packages(path))
        assert ours <= MAY_IMPORT[package], f"{path.name} imports {ours - MAY_IMPORT[package]}"


@pytest.mark.parametrize("package", ["schemas", "pipeline", "views"])
def test_the_data_half_never_imports_torch(package: str) -> None:
    for path in modules(package):
        assert not HEAVY & set(imported_packages(path)), path.name


@pytest.mark.parametrize(
    "command",
    [
        ["--help"],
        ["collect-pairs", "--help"],
        ["collect-pairs", "data/samples/rollouts.jsonl", "-o", "/dev/null"],
        ["validate", "data/samples/rollouts.jsonl"],
        ["train", "data/samples/rollouts.jsonl", "dpo.beta=1"],
    ],
)
def test_starts_without_torch(command: list[str]) -> None:
    script = (
        "import sys, cli\n"
        f"sys.argv = ['dpo', *{command!r}]\n"
        "try: cli.main()\n"
        "finally: print(sorted(set(sys.modules) & {'torch', 'transformers', 'accelerate'}), file=sys.stderr)\n"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert result.stderr.splitlines()[-1] == "[]", result.stderr
    assert Path("/dev/null").is_char_device()


def test_files_are_small() -> None:
    for package in MAY_IMPORT:
        for path in [*modules(package), REPOSITORY / "cli.py"]:
            assert len(path.read_text().splitlines()) <= MAX_LINES, f"{path.name}: look for the seam"
