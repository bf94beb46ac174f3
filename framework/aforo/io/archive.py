"""A file of named arrays with a configuration: safetensors, with JSON in its metadata. Nothing in it can run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from secrets import token_hex
from typing import Any

import numpy as np

from ..errors import InvalidValue, explain

Array = np.ndarray[Any, Any]
FORMAT, VERSION = "aforo", 1


@dataclass(frozen=True)
class Archive:
    path: str
    config: dict[str, Any]
    arrays: dict[str, Array]


def write(path: str, config: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Write a file beside this path, then put it in its place: whoever opens the path finds the old file or the new one."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    # The format takes the bytes of an array as they lie: they must lie row by row.
    dense = {name: np.ascontiguousarray(values).reshape(values.shape) for name, values in arrays.items()}
    metadata = {"format": FORMAT, "version": str(VERSION), "config": json.dumps(config)}
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    temporary = f"{target}.{token_hex(4)}.tmp"
    try:
        save_file(dense, temporary, metadata)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except (OSError, SafetensorError) as error:
        raise InvalidValue(
            explain(
                f"{path!r} cannot be written. What was there before is untouched.",
                expected="a file in a folder that exists, with room on the disk",
                received=getattr(error, "strerror", None) or str(error),
                fix=None if os.path.isdir(folder) else f"import os; os.makedirs({folder!r})",
            )
        ) from None
    finally:
        with suppress(OSError):
            os.unlink(temporary)


def read(path: str) -> Archive:
    """What a file holds. Raises, saying why, if it is none of Aforo's, is damaged, or comes from a later version."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            config = _config(path, file.metadata() or {})
            return Archive(path, config, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except OSError as error:
        raise InvalidValue(
            explain(
                f"{path!r} cannot be read.",
                expected="a file that exists",
                received=error.strerror or str(error),
                fix=f"import os; os.listdir({os.path.dirname(path) or '.'!r})",
            )
        ) from None
    except SafetensorError as error:
        raise InvalidValue(
            explain(
                f"{path!r} is no file of Aforo's, or only a part of one.",
                expected="what model.save or model.save_weights wrote, whole",
                received=f"{_size(path):,} bytes that safetensors cannot read ({error})",
                fix="copy the file again, or save the model again",
            )
        ) from None


def _size(path: str) -> int:
    with suppress(OSError):
        return os.path.getsize(path)
    return 0


def _config(path: str, metadata: Mapping[str, str]) -> dict[str, Any]:
    if metadata.get("format") != FORMAT:
        raise InvalidValue(
            explain(
                f"{path!r} was not written by Aforo: it has no configuration.",
                expected="what model.save or model.save_weights wrote",
                received=f"a safetensors file of format {metadata.get('format')!r}",
                fix="model.set_weights(list(safetensors.numpy.load_file(path).values())), in the order of get_weights()",
            )
        )
    if metadata.get("version") != str(VERSION):
        raise InvalidValue(
            explain(
                f"{path!r} was written by another version of Aforo.",
                expected=f"version {VERSION} of the format",
                received=f"version {metadata.get('version')}",
                fix="pip install -U aforo",
            )
        )
    try:
        config = json.loads(metadata["config"])
    except (KeyError, ValueError):
        config = None
    if not isinstance(config, dict) or not isinstance(config.get("weights"), list):
        raise damaged(path)
    return config


def damaged(path: str) -> InvalidValue:
    return InvalidValue(
        explain(
            f"the configuration in {path!r} is damaged.",
            expected="the one that model.save wrote",
            fix="copy the file again, or save the model again",
        )
    )
