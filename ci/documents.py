"""Run what the documents promise: every Python block of the README and every example, each in a process of its own.

python ci/documents.py              run them all; warnings are errors
python ci/documents.py --command N  print the N-th set-up line of the README
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

ROOT = Path(__file__).resolve().parents[1]


def blocks(language: str) -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """The lines of the README's bash blocks that make and use an environment."""
    return [line for block in blocks("bash") for line in block.splitlines() if ".venv/bin/" in line]


def run(name: str, source: str | Path) -> bool:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "framework"), str(ROOT / "backends")])}
    started = perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        script = source if isinstance(source, Path) else Path(folder) / "script.py"
        if isinstance(source, str):
            script.write_text(source, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-W", "error", str(script)], cwd=folder, env=environment, capture_output=True, text=True
        )
    print(f"  {'ok  ' if done.returncode == 0 else 'FAIL'} {name} ({perf_counter() - started:.1f} s)")
    if done.returncode:
        print(done.stdout[-2000:], done.stderr[-4000:], sep="\n")
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--command", type=int, help="print one set-up line")
    options = parser.parse_args()
    if options.command:
        print(commands()[options.command - 1])
        return 0
    sources: list[tuple[str, str | Path]] = [(f"README block {i}", block) for i, block in enumerate(blocks("python"), 1)]
    sources += [(str(path.relative_to(ROOT)), path) for path in sorted((ROOT / "examples").glob("*.py"))]
    passed = [run(name, source) for name, source in sources]
    return 0 if passed and all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
