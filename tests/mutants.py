"""Do the tests notice? One operator, number or condition at a time is changed in the code that computes, and the tests
of its file and of all numbers are run against it. What survives is printed, for a test or for a comment that says why.

    python tests/mutants.py --sample 100 --seed 0
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
MUTATED = ("passes", "fxsnn/numerics", "fxsnn/rewriting", "fxsnn/layers")
TESTS = {
    "passes": ["tests/passes"],
    "fxsnn/numerics": ["tests/fxsnn/numerics"],
    "fxsnn/rewriting": ["tests/fxsnn/rewriting"],
    "fxsnn/layers": ["tests/fxsnn/layers"],
}
ALL = ["tests/test_against_reference.py", "tests/fxsnn/test_compiler.py", "tests/fxsnn/test_network.py"]

OTHER: dict[type[ast.AST], ast.AST] = {
    ast.Lt: ast.LtE(), ast.LtE: ast.Lt(), ast.Gt: ast.GtE(), ast.GtE: ast.Gt(), ast.Eq: ast.NotEq(),
    ast.NotEq: ast.Eq(), ast.Is: ast.IsNot(), ast.IsNot: ast.Is(), ast.In: ast.NotIn(), ast.NotIn: ast.In(),
    ast.And: ast.Or(), ast.Or: ast.And(), ast.Add: ast.Sub(), ast.Sub: ast.Add(), ast.Mult: ast.Add(),
    ast.Div: ast.Mult(), ast.FloorDiv: ast.Div(), ast.LShift: ast.RShift(), ast.RShift: ast.LShift(),
    ast.UAdd: ast.USub(), ast.USub: ast.UAdd(),
}  # fmt: skip


def mutants(source: str) -> Iterator[tuple[int, str, str]]:
    """Every changed source of a file: line, what was changed, the source."""
    count = sum(1 for _ in ast.walk(ast.parse(source)))
    for place in range(count):
        tree = ast.parse(source)
        node = list(ast.walk(tree))[place]
        before = ast.unparse(node) if hasattr(node, "lineno") else ""
        if isinstance(node, ast.Compare):
            node.ops[0] = OTHER[type(node.ops[0])]  # type: ignore[call-overload]
        elif isinstance(node, ast.BoolOp | ast.BinOp | ast.UnaryOp) and type(node.op) in OTHER:
            node.op = OTHER[type(node.op)]  # type: ignore[assignment]
        elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            node.value = not node.value if isinstance(node.value, bool) else node.value + 1
        elif isinstance(node, ast.If | ast.IfExp | ast.While):
            node.test = ast.UnaryOp(ast.Not(), node.test)
        else:
            continue
        yield node.lineno, f"{before.splitlines()[0]}  ->  {ast.unparse(node).splitlines()[0]}", ast.unparse(tree)


def survives(copy: Path, file: str, source: str, tests: list[str]) -> bool:
    """Whether all tests pass in a copy of the repository whose file has that source."""
    (copy / file).write_text(source)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not slow", *tests]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, timeout=900, check=False)
    except subprocess.TimeoutExpired:
        return False
    finally:
        shutil.copyfile(REPOSITORY / file, copy / file)
    return done.returncode == 0


def main() -> int:
    """Sample mutants, run them, print those that survive."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=100, help="how many mutants (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which ones (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="how many at once (default: %(default)s)")
    parser.add_argument("--only", default="", help="only files whose path contains this")
    given = parser.parse_args()
    paths = [path for folder in MUTATED for path in sorted((REPOSITORY / folder).glob("*.py"))]
    files = [str(path.relative_to(REPOSITORY)) for path in paths if given.only in str(path)]
    found = [(file, *mutant) for file in files for mutant in mutants((REPOSITORY / file).read_text())]
    chosen = random.Random(given.seed).sample(found, min(given.sample, len(found)))
    print(f"{len(chosen)} of {len(found)} mutants", flush=True)
    with tempfile.TemporaryDirectory() as scratch:

        def run(job: int) -> int:
            copy = Path(scratch) / str(job)
            ignored = shutil.ignore_patterns(".git", ".venv*", "build", "out", "site", "*.egg-info", "__pycache__")
            shutil.copytree(REPOSITORY, copy, symlinks=True, ignore=ignored)
            survivors = 0
            for file, line, change, source in chosen[job :: given.jobs]:
                folder = str(Path(file).parent)
                own = [
                    str(path.relative_to(REPOSITORY)) for path in REPOSITORY.glob(f"tests/**/test_{Path(file).stem}.py")
                ]
                if survives(copy, file, source, [*own, *TESTS[folder], *ALL]):
                    survivors += 1
                    print(f"survives  {file}:{line}  {change}", flush=True)
            return survivors

        with ThreadPoolExecutor(given.jobs) as pool:
            survivors = sum(pool.map(run, range(given.jobs)))
    print(f"{len(chosen) - survivors} of {len(chosen)} killed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
