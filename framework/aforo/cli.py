"""The command line: `aforo plan model.py:build --batch 32,64 --width 256,512`, `aforo draw model.py:build`, `aforo devices`.

A command is a function that adds its parser, and says what runs it. Its exit code is 0; 1 if a budget is exceeded; 2 for
input that cannot be used, with an explanation and no traceback.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from inspect import signature
from pathlib import Path
from traceback import extract_tb
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .device import devices
from .errors import Error, InvalidType, InvalidValue, explain, unknown_name
from .model import Model
from .tables import bytes_written

if TYPE_CHECKING:
    from .memory import Sweep

EXCEEDED, BAD_INPUT = 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; by default that of this process. Returns its exit code."""
    parser = argparse.ArgumentParser(prog="aforo", description="Networks whose memory is planned before they run.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="command")
    for add in COMMANDS:
        add(commands)
    options = parser.parse_args(arguments)
    try:
        code: int = options.run(options)
    except Error as error:
        print(f"aforo: {_as_typed(str(error))}", file=sys.stderr)
        return BAD_INPUT
    return code


def _as_typed(text: str) -> str:
    """An explanation with options as a command has them."""
    start, mark, fix = text.rpartition("\n  fix: ")
    for option, typed in (
        ("leave length out", "leave --length out"),
        ("lengths=[100, 1000] without widths", "--length 100,1000 without --width, or one length with it"),
        ("length=100", "--length 100"),
        ('budget="8GiB"', "--budget 8GiB"),
        ('model.to("cpu"); af.devices() says what there is', "--device cpu; aforo devices says what there is"),
        ('model.draw("net.svg")', "--out net.svg"),
    ):
        if fix == option:
            fix = typed
    return start + mark + fix


def _say(text: Any) -> None:
    """Print; a reader that has closed the pipe, like `head`, has read enough, and changes no exit code."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# --- aforo plan -------------------------------------------------------------------------------------------------------


def _add_plan(commands: Any) -> None:
    parser = commands.add_parser(
        "plan",
        help="how much memory a model takes, before it runs",
        description="How much memory a model takes for each batch size and width. No weights are created, no device is needed.",
        epilog="exit code: 0 if everything fits, 1 if any cell exceeds the budget, 2 if the input cannot be used",
    )
    parser.add_argument("build", metavar="model.py:build", help="a function in a file: build(width) -> compiled model")
    parser.add_argument("--batch", type=_sizes, default=(32,), metavar="32,64", help="batch sizes (32)")
    parser.add_argument("--width", type=_sizes, metavar="256,512", help="widths; without it, build() is called")
    parser.add_argument(
        "--length", type=_sizes, metavar="100,1000", help="time steps of models of sequences; several: no widths"
    )
    parser.add_argument("--device", metavar="NAME", help="where it would run, e.g. cuda; the model's own by default")
    parser.add_argument("--budget", metavar="24GiB", help='bytes, or e.g. "24GiB" (binary) or "24GB" (decimal)')
    parser.add_argument("--prediction", action="store_true", help="plan predictions instead of training steps")
    parser.add_argument("--html", metavar="FILE", help="write a page to look at and to share")
    parser.add_argument("--csv", metavar="FILE", help="write a line for each cell")
    parser.add_argument("--json", action="store_true", help="print everything as JSON instead of a table")
    parser.set_defaults(run=_plan)


def _plan(options: argparse.Namespace) -> int:
    from .memory import sweep

    with redirect_stdout(sys.stderr):  # what the file prints is no part of the answer
        build = _checked(_loaded(options.build), options.build, options.width is not None)
        time: tuple[int, ...] = options.length or ()
        lengths = {"length": time[0]} if len(time) == 1 else {"lengths": time} if time else {}
        choices = {"training": not options.prediction, "budget": options.budget, **lengths}
        found = sweep(build, options.batch, options.width, options.device, **choices)
    if options.html:
        found.to_html(options.html)
    if options.csv:
        found.to_csv(options.csv)
    if options.json:
        _say(json.dumps(found.to_dict()))
    else:
        single = len(found.reports) == len(found.reports[0]) == 1
        _say(found.reports[0][0] if single else found)
        if found.budget is not None:
            _say(_verdict(found, found.budget))
    return EXCEEDED if found.exceeds else 0


def _verdict(found: Sweep, budget: int) -> str:
    over = [
        (each.total_bytes, f"b = {batch_size}" + (f", {found.symbol} = {size}" if size is not None else ""))
        for batch_size, row in zip(found.batch_sizes, found.reports, strict=True)
        for size, each in zip(found.columns or (None,), row, strict=True)
        if each.total_bytes > budget
    ]
    if not over:
        return f"within the budget of {bytes_written(budget)}"
    most, where = max(over)
    cells = sum(map(len, found.reports))
    many = f" by {len(over)} of {cells} cells, most" if cells > 1 else ""
    return f"the budget of {bytes_written(budget)} is exceeded{many} by {bytes_written(most - budget)} at {where}"


def _sizes(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of sizes: whole numbers of 1 or more, e.g. 32,64")
    return sizes


def _loaded(target: str) -> Any:
    """What `file.py:name` names."""
    path, _, name = target.rpartition(":")
    if not path or not name:
        raise InvalidValue(
            explain("a model is named by a file and a function in it.", expected="model.py:build", received=repr(target))
        )
    file = Path(path)
    try:
        source = file.read_bytes()
    except OSError as error:
        raise InvalidValue(
            explain(f"{path!r} cannot be read.", expected="a Python file", received=error.strerror, fix="model.py:build")
        ) from None
    module = ModuleType("__aforo__")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module
    sys.path.insert(0, str(file.resolve().parent))
    try:
        exec(compile(source, str(file), "exec"), vars(module))
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == str(file)]
        where = f" (line {lines[-1]})" if lines else ""
        received = f"{type(error).__name__}: {error}{where}"
        raise InvalidValue(explain(f"{path!r} cannot be run.", expected="a Python file", received=received)) from error
    if not hasattr(module, name):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise unknown_name("function", name, functions or ["(none)"], fix=f"def {name}(width): … in {path}")
    return getattr(module, name)


def _checked(build: Any, target: str, with_width: bool) -> Callable[..., Any]:
    """A function that can be called as the sweep will."""
    if isinstance(build, Model):
        model = build
        build = lambda: model  # noqa: E731
    if not callable(build):
        raise InvalidType(explain(f"{target} is no function.", expected="build(width) -> compiled model", received=repr(build)))
    function: Callable[..., Any] = build
    try:
        signature(function).bind(*([1] if with_width else []))
    except TypeError:
        name = target.rpartition(":")[2]
        if with_width:
            what, fix = f"{target} takes no width.", f"def {name}(width): …, or leave --width out"
        else:
            what, fix = f"{target} needs more than it is given.", "--width 256,512"
        raise InvalidType(explain(what, received=f"{name}{signature(build)}", fix=fix)) from None
    return function


# --- aforo draw -------------------------------------------------------------------------------------------------------


def _add_draw(commands: Any) -> None:
    parser = commands.add_parser("draw", help="a picture of a model", description="A picture of a model, as SVG or PNG.")
    parser.add_argument("build", metavar="model.py:build", help="a function in a file, or a model: build() -> built model")
    parser.add_argument("--width", type=int, metavar="256", help="a width; without it, build() is called")
    parser.add_argument("--scale", default="layers", metavar="layers", help="layers, vectors or numbers (layers)")
    parser.add_argument("--notation", default="layers", metavar="layers", help="nodes are layers, values or neurons (layers)")
    parser.add_argument("--out", default="net.svg", metavar="net.svg", help="where to write it, .svg or .png (net.svg)")
    parser.set_defaults(run=_draw)


def _draw(options: argparse.Namespace) -> int:
    from .memory.sweep import built

    with redirect_stdout(sys.stderr):  # what the file prints is no part of the answer
        build = _checked(_loaded(options.build), options.build, options.width is not None)
        model = built(build, options.width, training=False)
    picture = model.draw(options.out, options.scale, options.notation)
    _say(f"{options.out}: {picture.canvas.width:.0f} × {picture.canvas.height:.0f} pixels")
    return 0


# --- aforo devices ----------------------------------------------------------------------------------------------------


def _add_devices(commands: Any) -> None:
    parser = commands.add_parser("devices", help="what this machine can run models on, and why not on the rest")
    parser.set_defaults(run=_devices)


def _devices(options: argparse.Namespace) -> int:
    found = devices()
    width = max(map(len, found))
    for name, state in found.items():
        _say(f"{name:<{width}}  {state}")
    return 0


COMMANDS = (_add_plan, _add_draw, _add_devices)
