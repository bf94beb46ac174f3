#!/usr/bin/env bash
# On a machine with a GPU, CuPy and the usual packages: the tests, then the benchmark; writes ci/receipts/<device>-<date>.json.
# Installs nothing, and ends within ten minutes. TESTS_SECONDS and BENCH_SECONDS are the limits of its two halves; whatever ends
# one of them early, the receipt holds what there was. A rehearsal without a GPU: DEVICE=cpu ci/gpu.sh, or DEVICE=simulated; it
# writes no receipt.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
device=${DEVICE:-cuda}
python=${PYTHON:-python3}
export PYTHONPATH=framework:backends PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
"$python" - "$device" <<'PYTHON' || exit 2
import sys

import aforo as af

print(af.devices())
if af.devices()[sys.argv[1]] != "available":
    sys.exit(f"{sys.argv[1]} is not available here")
PYTHON
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

step() { printf '\n== %s\n' "$1"; shift; "$@"; }
if "$python" -c "import pytest, hypothesis, xdist"; then
    step "tests on $device" timeout "${TESTS_SECONDS:-290}" env AFORO_TEST_DEVICE="$device" \
        "$python" -m pytest ${TESTS:-} --junitxml="$out/tests.xml" 2>&1 | tail -n 40
    tests=${PIPESTATUS[0]}
else
    echo "no tests: they need pytest, pytest-xdist and hypothesis"
    tests=2
fi
options=(--device "$device" --out "$out/bench.json")
[ "$device" = cuda ] && options+=(--tf32) || options+=(--quick)
step "benchmark" timeout "${BENCH_SECONDS:-270}" "$python" ci/bench/gpu.py "${options[@]}"
bench=$?
step "receipt" "$python" - "$out" "$device" <<'PYTHON'
import json
import re
import sys
from datetime import date
from pathlib import Path
from xml.etree import ElementTree

out, device = Path(sys.argv[1]), sys.argv[2]
receipt = json.loads((out / "bench.json").read_text()) if (out / "bench.json").exists() else {}
if (out / "tests.xml").exists():
    suite = ElementTree.parse(out / "tests.xml").getroot().find("testsuite").attrib
    receipt["tests"] = {name: int(suite[name]) for name in ("tests", "failures", "errors", "skipped")}
print(json.dumps(receipt.get("tests")))
if device == "cuda" and receipt:
    name = re.sub(r"[^a-z0-9]+", "-", receipt.get("device", "unknown").lower()).strip("-")
    target = Path("ci/receipts") / f"{name}-{date.today().isoformat()}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(receipt, indent=1) + "\n")
    print(target)
PYTHON
[ "$tests" = 0 ] && [ "$bench" = 0 ]
