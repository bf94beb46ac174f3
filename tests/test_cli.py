"""The command line: what it prints and writes, and its exit codes."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import aforo as af
from aforo.cli import main

MODEL = """
import aforo as af

print("loading")

def build(width=16):
    model = af.Sequential([af.Dense(width, "relu", input_shape=[20]), af.Dense(3)])
    model.compile(loss="mse", optimizer="adam")
    return model

def needs(width):
    return build(width)

def fixed():
    return build(8)

def fails(width):
    if width > 100:
        raise MemoryError("too wide")
    return build(width)

def nothing(width):
    pass

def leaves(width=1):
    raise SystemExit(0)

model = build(24)
number = 3
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "path", [*sys.path])
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    return str(path)


def total(width: int, batch_size: int, device: str = "cpu", training: bool = True) -> int:
    model = af.Sequential([af.Dense(width, "relu", input_shape=[20]), af.Dense(3)])
    model.compile(loss="mse", optimizer="adam")
    return model.memory(batch_size, training, device).total_bytes


def test_a_plan_of_batch_times_width(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, table = tmp_path / "plan.html", tmp_path / "plan.csv"
    options = ["--device", "cuda", "--budget", "1GiB", "--html", str(page), "--csv", str(table)]
    assert main(["plan", f"{file}:build", "--batch", "32,64", "--width", "16,32,48", *options]) == 0
    out, err = capsys.readouterr()
    assert "b = 64" in out and "n = 48" in out and "on cuda" in out and "within the budget of 1.0 GiB" in out
    assert "loading" in err and "loading" not in out
    with open(table, newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [int(row["total_bytes"]) for row in rows] == [total(n, b, "cuda") for b in (32, 64) for n in (16, 32, 48)]
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_options_that_are_missing_are_named_as_they_are_typed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.py"
    path.write_text(
        "import aforo as af\n\n\ndef rnn(width=4):\n    m = af.Sequential([af.GRU(width, input_shape=[None, 2])])\n"
        "    m.compile('mse')\n    return m\n\n\ndef net(width=4):\n    m = af.Sequential([af.Dense(width, input_shape=[2])])\n"
        "    m.compile('mse')\n    return m\n"
    )
    for options, fix in (
        (["rnn", "--width", "8"], "--length 100"),
        (["rnn", "--width", "8", "--length", "10,20"], "--length 100,1000 without --width, or one length with it"),
        (["net", "--length", "10"], "leave --length out"),
        (["net", "--budget", "foo"], "--budget 8GiB"),
        (["net", "--device", "foo"], "--device cpu; aforo devices says what there is"),
    ):
        assert main(["plan", f"{path}:{options[0]}", *options[1:]]) == 2
        assert capsys.readouterr().err.rstrip().endswith(f"fix: {fix}")
    assert main(["plan", f"{path}:rnn", "--width", "8", "--length", "100"]) == 0


def test_one_cell_prints_the_whole_report(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", f"{file}:build"]) == 0
    out = capsys.readouterr().out
    assert f"{total(16, 32):,} B" in out and "held there by" in out
    assert main(["plan", f"{file}:fixed", "--batch", "5", "--prediction"]) == 0
    assert f"{total(8, 5, training=False):,} B" in capsys.readouterr().out
    assert main(["plan", f"{file}:model", "--batch", "5"]) == 0
    assert f"{total(24, 5):,} B" in capsys.readouterr().out


def test_json_is_all_there_is_on_standard_output(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", f"{file}:needs", "--width", "16", "--batch", "1,2", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["total_bytes"] == [[total(16, 1)], [total(16, 2)]]
    assert data["reports"][0][0]["timeline"]["moments"]


@pytest.mark.parametrize(("budget", "code"), [(0, 0), (-1, 1)])
def test_the_exit_code_says_whether_the_budget_is_kept(
    file: str, capsys: pytest.CaptureFixture[str], budget: int, code: int
) -> None:
    limit = total(16, 32) + budget
    assert main(["plan", f"{file}:build", "--budget", str(limit)]) == code
    said = capsys.readouterr().out
    assert ("exceeded by 1 B at b = 32" in said) == bool(code)
    assert main(["plan", f"{file}:build", "--budget", str(limit), "--json"]) == code
    assert main(["plan", f"{file}:build", "--batch", "1,32", "--width", "16", "--budget", str(limit)]) == code
    assert ("exceeded by 1 of 2 cells" in capsys.readouterr().out) == bool(code)


@pytest.mark.parametrize(
    ("target", "options", "said"),
    [
        ("{folder}/absent.py:build", [], r"absent.py' cannot be read"),
        ("{folder}:build", [], r"cannot be read(.|\n)*directory"),
        ("{file}", [], r"named by a file and a function in it(.|\n)*model.py:build"),
        ("{file}:biuld", [], r"no function named 'biuld'(.|\n)*did you mean 'build'"),
        ("{file}:number", [], r"number is no function"),
        ("{file}:fixed", ["--width", "16"], r"fixed takes no width(.|\n)*def fixed\(width\)"),
        ("{file}:model", ["--width", "16"], r"model takes no width"),
        ("{file}:needs", [], r"needs needs more than it is given(.|\n)*--width 256,512"),
        ("{file}:fails", ["--width", "16,200"], r"fails\(200\) fails(.|\n)*MemoryError: too wide"),
        ("{file}:nothing", ["--width", "16"], r"nothing\(16\) gives no model"),
        ("{file}:leaves", ["--width", "16"], r"leaves\(16\) fails(.|\n)*SystemExit: 0"),
        ("{file}:build", ["--device", "gpuu"], r"no device named 'gpuu'(.|\n)*cpu, cuda, simulated"),
        ("{file}:build", ["--budget", "lots"], r"budget is no amount of memory"),
        ("{file}:build", ["--html", "{folder}/no/where.html"], r"where.html' cannot be written"),
        ("{folder}/broken.py:build", [], r"broken.py' cannot be run(.|\n)*SyntaxError"),
        ("{folder}/raises.py:build", [], r"raises.py' cannot be run(.|\n)*NameError: name 'xs' is not defined \(line 3\)"),
        ("{folder}/leaves.py:build", [], r"leaves.py' cannot be run(.|\n)*SystemExit"),
        ("{folder}/empty.py:build", [], r"no function named 'build'"),
    ],
)
def test_bad_input_is_one_paragraph_and_exit_code_2(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str, options: list[str], said: str
) -> None:
    (tmp_path / "broken.py").write_text("def build(:\n")
    (tmp_path / "raises.py").write_text("\n\nn = len(xs)\n")
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(3)\n")
    (tmp_path / "empty.py").write_text("")
    given = [text.format(file=file, folder=tmp_path) for text in [target, *options]]
    assert main(["plan", *given]) == 2
    error = capsys.readouterr().err.replace("loading\n", "")
    assert error.startswith("aforo: ") and "\n\n" not in error and "Traceback" not in error
    assert re.search(said, error), error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plan", "m.py:build", "--batch", "0"], "'0' is no list of sizes"),
        (["plan", "m.py:build", "--width", "256;512"], "'256;512' is no list of sizes"),
        (["plan"], "model.py:build"),
        (["plna"], "plan"),
        ([], "command"),
    ],
)
def test_arguments_that_do_not_parse_exit_with_2(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2 and said in capsys.readouterr().err


def test_devices_says_what_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(af.devices())
    assert lines[0].split() == ["cpu", "available"]


def test_the_installed_command_is_the_same(file: str) -> None:
    root = Path(__file__).parents[1]
    path = os.pathsep.join([str(root / "framework"), str(root / "backends")])
    command = [sys.executable, "-m", "aforo", "plan", f"{file}:build", "--budget", "1kB"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 1 and "budget of 1000 B is exceeded" in done.stdout, done.stderr
    assert 'aforo = "aforo.cli:main"' in (root / "pyproject.toml").read_text()


def test_a_reader_that_has_read_enough_changes_no_exit_code(file: str) -> None:
    root = Path(__file__).parents[1]
    path = os.pathsep.join([str(root / "framework"), str(root / "backends")])
    for arguments, code in ((["--json"], 0), (["--budget", "1kB"], 1)):
        command = [sys.executable, "-m", "aforo", "plan", f"{file}:build", *arguments]
        reading, writing = os.pipe()
        os.close(reading)
        environment = {**os.environ, "PYTHONPATH": path}
        done = subprocess.run(command, env=environment, stdout=writing, stderr=subprocess.PIPE, text=True)
        os.close(writing)
        assert done.returncode == code and done.stderr == "loading\n"


# --- aforo draw -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "notation"), [("layers", "layers"), ("vectors", "values"), ("numbers", "neurons")])
def test_draw_writes_the_picture_that_the_model_draws(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], scale: str, notation: str
) -> None:
    out = tmp_path / "net.svg"
    assert main(["draw", f"{file}:fixed", "--scale", scale, "--notation", notation, "--out", str(out)]) == 0
    model = af.Sequential([af.Dense(8, "relu", input_shape=[20]), af.Dense(3)])
    assert out.read_text(encoding="utf-8") == model.draw(scale=scale, notation=notation).svg
    printed = capsys.readouterr()
    assert printed.out.startswith(f"{out}: ") and "pixels" in printed.out and "loading" in printed.err


def test_draw_takes_a_width_or_a_model(file: str, tmp_path: Path) -> None:
    out = str(tmp_path / "net.svg")
    assert main(["draw", f"{file}:needs", "--width", "12", "--out", out]) == 0
    assert "W1: 20 × 12" in Path(out).read_text(encoding="utf-8")
    assert main(["draw", f"{file}:model", "--out", out]) == 0
    assert "W1: 20 × 24" in Path(out).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing", "--width", "3"], "gives no model"),
        (["fixed", "--scale", "layer"], "did you mean 'layers'"),
        (["fixed", "--out", "net.pdf"], ".svg or .png"),
        (["fixed", "--out", f"{'n' * 300}.svg"], "cannot be written"),
        (["needs"], "--width"),
        (["leaves"], "leaves() fails"),
        (["fails", "--width", "101"], "MemoryError: too wide"),
        (["missing"], "no function named 'missing'"),
    ],
)
def test_what_cannot_be_drawn_is_explained(
    file: str,
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    name, *rest = arguments
    assert main(["draw", f"{file}:{name}", *rest]) == 2
    printed = capsys.readouterr()
    assert said in printed.err and "Traceback" not in printed.err and printed.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["model.py"]


def test_draw_does_not_write_into_a_folders_name(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dir.svg").mkdir()
    assert main(["draw", f"{file}:fixed", "--out", "dir.svg"]) == 2
    printed = capsys.readouterr()
    assert "dir.svg, a folder" in printed.err and "Traceback" not in printed.err and printed.out == ""
