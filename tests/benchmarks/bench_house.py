"""Counts how large the house is and how it reads: lines, functions, file names, docstrings and vague names.

    python -m tests.benchmarks.bench_house [FOLDER ...]

Without folders it counts the product (backend, worker, model, recipes) and its tests. Lines, the longest functions and
repeated file names are those of the product; docstrings and vague names are counted in the tests too. Nothing is timed.
"""

import argparse
import ast
import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

WHEEL = ("backend", "worker", "model")
PRODUCT = (*WHEEL, "recipes")
HOUSE = (*PRODUCT, "tests")
SUFFIXES = {".py", ".lua", ".html", ".css", ".js"}
VAGUE_NAMES = {"one", "found", "known", "seen", "told", "asked", "kept"}
VAGUE_OPENINGS = ("What ", "Who ", "Whether ", "How ")
DOORS = {"__init__.py", "jobs.py", "cli.py"}
Function = ast.FunctionDef | ast.AsyncFunctionDef
Documented = Function | ast.ClassDef | ast.Module


@dataclass(frozen=True, kw_only=True)
class House:
    """One reading of some folders."""

    wheel_lines: int
    recipe_lines: int
    longest: Sequence[tuple[int, str]]
    """The longest functions, in lines of source with signature and docstring."""
    repeated_names: Sequence[str]
    """File names that stand more than once; doors are left out."""
    docstrings: int
    vague_docstrings: Sequence[str]
    vague_names: Counter[str]
    """How often each vague name is bound, and where."""

    @property
    def vague_share(self) -> float:
        return len(self.vague_docstrings) / max(1, self.docstrings)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench_house", description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("folders", nargs="*", default=HOUSE, help="count only these")
    parser.add_argument("--list", action="store_true", help="list each vague docstring and name too")
    arguments = parser.parse_args(argv)
    house = read_house(arguments.folders)
    words = len(re.findall(r"\S+", Path("README.md").read_text()))
    print(f"lines in the wheel          {house.wheel_lines}")
    print(f"lines of the recipes        {house.recipe_lines}")
    print("longest functions           " + ", ".join(f"{name} {lines}" for lines, name in house.longest))
    print("file names that occur twice " + (", ".join(house.repeated_names) or "none"))
    print(f"docstrings                  {house.docstrings}, vague openings {house.vague_share:.1%}")
    vague = sum(house.vague_names.values())
    print(f"vague variable names        {vague}")
    print(f"words of the README         {words}")
    if arguments.list:
        print("\n".join(house.vague_docstrings))
        print("\n".join(f"{place}: {count}" for place, count in house.vague_names.most_common()))
    longest = house.longest[0][0] if house.longest else 0
    bars = {
        "wheel_lines": bar(house.wheel_lines, 20000),
        "longest_function": bar(longest, 45),
        "repeated_file_names": bar(len(house.repeated_names), 0),
        "vague_docstring_share": bar(round(house.vague_share, 4), 0.02),
        "vague_names": bar(vague, 100),
        "readme_words": bar(words, 1100),
    }
    print(json.dumps({"bars": bars}))


def bar(value: float, most: float) -> dict[str, float | bool]:
    return {"value": value, "bar": most, "holds": value <= most}


def read_house(folders: Sequence[str]) -> House:
    """Count every tracked file of these folders."""
    listed = subprocess.run(["git", "ls-files", *folders], capture_output=True, text=True, check=True).stdout
    files = [path for path in map(Path, listed.split()) if path.suffix in SUFFIXES and path.exists()]
    lines = {path: len(path.read_text().splitlines()) for path in files}
    product = [path for path in files if path.suffix == ".py" and path.parts[0] in PRODUCT]
    names = Counter(path.name for path in product if path.name not in DOORS)
    functions: list[tuple[int, str]] = []
    vague_docstrings: list[str] = []
    vague_names: Counter[str] = Counter()
    docstrings = 0
    for path in files:
        if path.suffix != ".py":
            continue
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, Function) and path in product:
                functions.append((int(node.end_lineno or node.lineno) - node.lineno + 1, node.name))
            if isinstance(node, Documented) and (text := ast.get_docstring(node)):
                docstrings += 1
                if text.startswith(VAGUE_OPENINGS):
                    vague_docstrings.append(f"{path}: {text.splitlines()[0]}")
        for name in bound_names(tree):
            if name in VAGUE_NAMES:
                vague_names[f"{path} {name}"] += 1
    return House(
        wheel_lines=sum(count for path, count in lines.items() if path.parts[0] in WHEEL),
        recipe_lines=sum(count for path, count in lines.items() if path.parts[0] == "recipes"),
        longest=sorted(functions, reverse=True)[:5],
        repeated_names=sorted(name for name, count in names.items() if count > 1),
        docstrings=docstrings,
        vague_docstrings=vague_docstrings,
        vague_names=vague_names,
    )


def bound_names(tree: ast.Module) -> Iterator[str]:
    """Yield every use of a variable or an argument by its name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg


if __name__ == "__main__":
    main()
