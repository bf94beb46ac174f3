#!/usr/bin/env bash
# The one check for people: format, lint, types, import floors, tests, README and examples executed. Warnings are errors.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=.venv/bin/python
[ -x "$python" ] || python3 -m venv .venv
"$python" -c "import aforo, hypothesis, mypy, ruff" 2>/dev/null || "$python" -m pip install -q -e ".[dev]"
step() { printf '\n== %s\n' "$1"; shift; "$@"; }
step format "$python" -m ruff format --no-cache --check .
step lint "$python" -m ruff check --no-cache .
step types "$python" -m mypy
step "tests, import floors among them" "$python" -m pytest
step "the same tests on the simulated device" env AFORO_TEST_DEVICE=simulated "$python" -m pytest
step "README and examples" "$python" ci/documents.py
[ -z "$(git status --porcelain --ignored=no 2>/dev/null | grep '^??' || true)" ] || { git status --short; echo "untracked files"; exit 1; }
printf '\nall checks passed\n'
