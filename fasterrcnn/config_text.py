"""Between configurations and text: types checked, names suggested, docstrings turned into comments, TOML written."""

from __future__ import annotations

import difflib
import inspect
import re
import textwrap
import types
from collections.abc import Iterable, Mapping
from typing import Any, Union, get_args, get_origin

import tomlkit
from tomlkit.items import Table

NONE = "none"
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a string", type(None): f'"{NONE}"'}


def close_to(name: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown name: what was perhaps meant, else everything known."""
    known = list(known)
    # Also by the part after the dot, so that "lrr" finds "train.lr".
    near = [*difflib.get_close_matches(name, known, n=3, cutoff=0.6)]
    ends = {entry.rpartition(".")[2]: entry for entry in known}
    near += [ends[end] for end in difflib.get_close_matches(name, list(ends), n=3, cutoff=0.6) if ends[end] not in near]
    return f"; did you mean {' or '.join(near[:3])}?" if near else f"; known: {', '.join(known)}"


def from_toml(value: Any) -> Any:
    """A TOML value as Python has it: "none" as None, lists as tuples."""
    if isinstance(value, (list, tuple)):
        return tuple(from_toml(item) for item in value)
    return None if value == NONE else value


def check_type(key: str, value: Any, hint: Any) -> Any:
    """The value, whole numbers as floats where those are meant.

    Args:
        key: Named in the message.
        value: As :func:`from_toml` gives it.
        hint: A type annotation: bool, int, float, str, None, tuples and unions of these.

    Raises:
        ValueError: The value is of another type.
    """
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for option in options:
        if get_origin(option) is tuple and isinstance(value, tuple):
            kinds = get_args(option)
            if kinds[-1] is Ellipsis:
                kinds = (kinds[0],) * len(value)
            if len(kinds) == len(value):
                return tuple(check_type(key, item, kind) for item, kind in zip(value, kinds, strict=True))
        elif option is float and type(value) in (int, float):
            return float(value)
        elif type(value) is option:
            return value
    raise ValueError(f"{key} must be {' or '.join(_in_words(option) for option in options)}, got {_shown(value)}")


def matches_default(key: str, value: Any, default: Any) -> Any:
    """The value of an argument of which only the default is known; its type must be the default's.

    Numbers in lists may be whole or not, and what may be None may be anything: the constructor knows more.

    Raises:
        ValueError: The value is of another type.
    """
    if default is None or (value is None and not isinstance(default, bool)):
        return value
    if isinstance(default, tuple):
        numbers = _flat_numbers(default)
        if not isinstance(value, tuple) or (numbers and not _flat_numbers(value)):
            raise ValueError(f"{key} must be a list{' of numbers' if numbers else ''}, got {_shown(value)}")
        return value
    return check_type(key, value, type(default))


def documented(docstring: str | None) -> dict[str, str]:
    """What the "Args:" or "Attributes:" of a docstring say about each name, in one line each, without markup."""
    texts: dict[str, str] = {}
    names: list[str] = []
    inside = False
    for line in inspect.cleandoc(docstring or "").splitlines():
        if line and not line.startswith(" "):
            inside = line.rstrip() in ("Args:", "Attributes:")
            continue
        entry = re.match(r"    (\w[\w, ]*): (.*)", line)
        if not inside or not line.strip():
            continue
        if entry:
            names = [name.strip() for name in entry[1].split(",")]
            texts.update(dict.fromkeys(names, entry[2]))
        else:
            texts.update({name: f"{texts[name]} {line.strip()}" for name in names})
    return {name: re.sub(r":\w+:`~?([^`]*)`|``([^`]*)``", r"\1\2", text) for name, text in texts.items()}


def to_document(
    top: Mapping[str, Any],
    heads: Mapping[str, str],
    sections: Mapping[str, Mapping[str, Any]],
    comments: Mapping[str, Mapping[str, str]],
) -> str:
    """TOML text.

    Args:
        top: Keys before the first section.
        heads: Their comments.
        sections: Keys and values by section.
        comments: By section and key; without any the text has values alone.
    """
    document = tomlkit.document()
    if comments:
        document.add(tomlkit.comment(f'"{NONE}" stands for None; every key may be left out and keeps its default.'))
    for key, value in top.items():
        if comments:
            document.add(tomlkit.comment(heads[key]))
        document.add(key, value)
    for name, values in sections.items():
        table: Table = tomlkit.table()
        before = ""
        for key, value in values.items():
            comment = comments.get(name, {}).get(key, "")
            if comment != before:  # neighbours are explained together
                for line in textwrap.wrap(comment, 100):
                    table.add(tomlkit.comment(line))
            before = comment
            table.add(key, _to_toml(value))
        document.add(name, table)
    return tomlkit.dumps(document)


def _to_toml(value: Any) -> Any:
    if value is None:
        return NONE
    if isinstance(value, (list, tuple)):
        return [_to_toml(item) for item in value]
    return value


def _flat_numbers(values: tuple[Any, ...]) -> bool:
    return bool(values) and all(_flat_numbers(v) if isinstance(v, tuple) else type(v) in (int, float) for v in values)


def _in_words(option: Any) -> str:
    if get_origin(option) is tuple:
        kinds = get_args(option)
        counted = "" if kinds[-1] is Ellipsis else f"{len(kinds)} "
        return f"a list of {counted}{'whole numbers' if kinds[0] is int else 'numbers'}"
    return _KINDS[option]


def _shown(value: Any) -> str:
    value = list(value) if isinstance(value, tuple) else value
    return f'"{NONE}"' if value is None else repr(value)
