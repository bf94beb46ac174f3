"""Objects from data: what `describe` wrote, made again."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from typing import Any

from ..errors import Error, InvalidType, InvalidValue, explain, nearest
from ..evaluate import tensor
from ..graph import Spelling, Tensor, apply
from ..layers.call import flattened
from ..layers.layer import Layer
from ..model import Model
from ..recurrence import Feedback, Start
from ..sequential import Sequential
from ..specs import Dim
from ..topology import Input
from .archive import Archive
from .describe import kind_of, parts
from .known import named


def check_custom(archive: Archive, given: Any) -> dict[str, Any]:
    """The user's own classes and functions that the file names. Raises, naming them, if some are missing."""
    if given is not None and not isinstance(given, Mapping):
        raise InvalidType(
            explain(
                "custom_objects maps names to classes and functions.",
                received=type(given).__name__,
                fix=f'af.load_model({archive.path!r}, custom_objects={{"my_activation": my_activation}})',
            )
        )
    found: dict[str, Any] = dict(given or {})
    wanted: dict[str, str] = archive.config["custom"]
    missing = [name for name in wanted if name not in found]
    if missing:
        every = ", ".join(f'"{name}": {name if name.isidentifier() else "…"}' for name in wanted)
        near = {name: nearest(name, [each for each in found if each not in wanted]) for name in missing}
        kinds = ", ".join(f"{name!r} (a {wanted[name]}{f'; not {near[name]!r}?' if near[name] else ''})" for name in missing)
        raise InvalidValue(
            explain(
                f"{archive.path!r} uses what only you have: {kinds}.",
                expected="each of them in custom_objects",
                received=", ".join(map(repr, found)) or "none",
                fix=f"af.load_model({archive.path!r}, custom_objects={{{every}}})",
            )
        )
    for name, kind in wanted.items():
        if kind_of(found[name]) != kind or (kind == "function" and not callable(found[name])):
            raise InvalidType(
                explain(
                    f"custom_objects[{name!r}] must be a {kind}.",
                    received=repr(found[name]),
                    fix=f'custom_objects={{"{name}": {name if name.isidentifier() else "…"}}}',
                )
            )
    return found


class Reader:
    def __init__(self, archive: Archive, custom: Mapping[str, Any]) -> None:
        self.archive = archive
        self.custom = custom
        self.entries: list[dict[str, Any]] = archive.config["layers"]
        self._layers: dict[int, Layer] = {}

    def value(self, data: Any, at: Mapping[str, Any] | None = None) -> Any:
        """What this data describes. at: gives the tensors of a net."""
        if isinstance(data, list):
            return [self.value(each, at) for each in data]
        if not isinstance(data, dict):
            return data
        if "made" in data:
            options = {name: self.value(each) for name, each in data["options"].items()}
            return _made(self.value(data["made"]), options)
        ((kind, content),) = data.items()
        if kind == "tuple":
            return tuple(self.value(content, at))
        if kind == "dict":
            return {self.value(key, at): self.value(each, at) for key, each in content}
        if kind == "dim":
            return Dim({tuple(symbols): n for symbols, n in content})
        if kind == "bytes":
            return b64decode(content)
        if kind == "array":
            return self.archive.arrays[content]
        if kind == "layer":
            return self.layer(content)
        if kind == "aforo":
            return named(content)
        if kind == "custom":
            return self.custom[content]
        assert at is not None
        return self._tensor(content, at)

    # --- layers -------------------------------------------------------------------------------------------------------

    def layer(self, number: int) -> Any:
        """The layer with that description, always the same."""
        if number not in self._layers:
            entry = self.entries[number]
            if "net" in entry:
                made: Any = self._net(entry["net"], entry["dtype"])
            else:
                cls = self.value(entry["class"])
                made = _made(cls.from_config, {name: self.value(each) for name, each in entry["options"].items()}, config=True)
                made.dtype = entry["dtype"]
            self._layers[number] = made
            self._identify(number)
        return self._layers[number]

    def _identify(self, number: int) -> None:
        for part, identity in zip(parts(self._layers[number]), self.entries[number]["parts"], strict=False):
            part.identify(*identity)

    def finish(self) -> None:
        """Once everything is built: also the layers that layers make when they are built."""
        for number, layer in self._layers.items():
            expected, received = len(self.entries[number]["parts"]), len(parts(layer))
            if expected != received:
                raise InvalidValue(
                    explain(
                        f"layer {layer.name!r} is made of other layers than when it was saved.",
                        expected=f"{expected - 1} layers in it",
                        received=f"{received - 1}",
                        fix=f"the class {type(layer).__name__} as it was then",
                    )
                )
            self._identify(number)

    def _net(self, net: Mapping[str, Any], dtype: str) -> Model:
        inputs = [Input(each["shape"], each["dtype"], each["name"]) for each in net["inputs"]]
        if "stack" in net:
            return Sequential([*inputs, *map(self.layer, net["stack"])], name=net["name"], dtype=dtype)  # type: ignore[list-item]
        at: dict[str, Any] = {"inputs": inputs, "records": []}
        for record in net["records"]:
            if "feedback" in record:
                at["records"].append([Feedback(**self.value(record["feedback"], at))])
                continue
            given = self.value(record["inputs"], at)
            if "call" in record:
                layer = self.layer(record["call"])
                at["records"].append(flattened(layer.call() if isinstance(layer, Start) else layer(*given)))
                continue
            made = apply(record["op"], *given, **self.value(record["attributes"], at))
            if "spelling" in record:
                name, written = self.value(record["spelling"], at)
                made.spelling = Spelling(name, tuple(written))
            at["records"].append([made])
        for feedback, value in self.value(net.get("connections", []), at):
            feedback.connect(value)
        return Model(*(self.value(form, at) for form in net["forms"]), steps=net["steps"], name=net["name"])

    def _tensor(self, place: Mapping[str, Any], at: Mapping[str, Any]) -> Tensor:
        ((kind, content),) = place.items()
        found: Tensor
        if kind == "input":
            found = at["inputs"][content]
        elif kind == "record":
            found = at["records"][content[0]][content[1]]
        elif kind == "weight":
            found = self.layer(content[0]).weights[content[1]]
        elif kind == "constant":
            found = apply("constant", **self.value(content, at))
        elif kind == "leaf":
            found = apply(content[0], **self.value(content[1], at))
        else:
            values = self.archive.arrays[content]
            found = tensor(values, values.dtype.name)
        return found


def _made(make: Any, options: dict[str, Any], config: bool = False) -> Any:
    """Call a constructor of the user's, or of Aforo's, with what the file says."""
    try:
        return make(options) if config else make(**options)
    except Error:
        raise
    except Exception as error:
        owner = getattr(make, "__self__", make)
        raise InvalidType(
            explain(
                f"{getattr(owner, '__name__', owner)} cannot be made with the options in the file: {error}.",
                expected=f"a class that takes {', '.join(options) or 'no options'}",
                fix=f"the class {getattr(owner, '__name__', owner)} as it was when the model was saved",
            )
        ) from error
