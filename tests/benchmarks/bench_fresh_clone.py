"""Measures `make demo-check` in a fresh clone, with no cache, an empty home and nothing installed.

    python -m tests.benchmarks.bench_fresh_clone

It clones the last commit into a temporary directory, downloads everything again (7 GB on disk) and takes minutes.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TO_FIRST_CAPTION_BAR_S = 360.0


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        clone, home = Path(directory) / "clone", Path(directory) / "home"
        home.mkdir()
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        summary = demo_check(clone, home)
    for part, seconds in summary["seconds"].items():
        print(f"{part.replace('_', ' '):40} {seconds:7.1f} s")
    first = summary["seconds"]["to_first_caption"]
    bar = {"value": first, "bar": TO_FIRST_CAPTION_BAR_S, "holds": summary["ok"] and first < TO_FIRST_CAPTION_BAR_S}
    print(json.dumps({"bars": {"empty_clone_to_first_caption_s": bar}}))


def demo_check(clone: Path, home: Path) -> dict[str, Any]:
    """Run `make demo-check` as somebody with an empty home would; return its summary, the last line."""
    environ = {**os.environ, "HOME": str(home), "PIP_NO_CACHE_DIR": "1"}
    # Variables of the caller's `make` and virtual environment must not affect the clone.
    for inherited in ("MAKEFLAGS", "MAKELEVEL", "VIRTUAL_ENV"):
        environ.pop(inherited, None)
    with subprocess.Popen(["make", "demo-check"], cwd=clone, env=environ, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        last = ""
        for line in run.stdout:
            last = line
            print(line, end="", file=sys.stderr, flush=True)
    try:
        summary: dict[str, Any] = json.loads(last)
    except ValueError:
        raise SystemExit(f"make demo-check ended with {run.returncode} and without a summary") from None
    return summary


if __name__ == "__main__":
    main()
