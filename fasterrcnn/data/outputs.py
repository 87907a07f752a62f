"""What ``fasterrcnn detect`` writes: under which names, and what of it an interrupted run has done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fasterrcnn.data.inputs import MARK
from fasterrcnn.files import remove_leftovers, write_text

SETTINGS = ".detect_settings"


def output_names(paths: Sequence[Path]) -> list[str]:
    """The stem of what is written for each file: its own and ``MARK``, and -2, -3 … where an earlier file has that, in
    whatever case."""
    names: list[str] = []
    taken: set[str] = set()
    for path in paths:
        name, number = path.stem + MARK, 1
        while name.lower() in taken:
            number += 1
            name = f"{path.stem}{MARK}-{number}"
        taken.add(name.lower())
        names.append(name)
    return names


def prepare_folder(out: Path, weights: Path, options: Mapping[str, Any], *, resume: bool) -> bool:
    """Makes the folder ready.

    With ``resume`` the settings are kept in it, so that results of other settings are not taken for those of these; nor
    are results nobody knows the settings of.

    Args:
        out: made when missing.
        weights: file of the detector, of which a checksum is kept.
        options: whatever else decides what is written.
        resume: whether to go on from an earlier run.

    Returns:
        Whether there are results of a run with the same settings.

    Raises:
        OSError: the folder cannot be written to.
        ValueError: it has the results of other settings, or of a run without ``resume``.
    """
    out.mkdir(parents=True, exist_ok=True)
    remove_leftovers(out)
    path = out / SETTINGS
    if not resume:
        path.unlink(missing_ok=True)  # its results will be of several runs
        return False
    with weights.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    settings = {"weights": digest.hexdigest(), **options}
    if path.exists():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            changed = [name for name, value in settings.items() if before.get(name) != value]
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{path} is damaged: remove it to do everything again") from error
        if changed:
            raise ValueError(
                f"{out} has results of a run with other settings ({', '.join(changed)}). Use the same ones to go on, "
                "another folder, or leave out --resume to do everything again"
            )
        return True
    stale = next(iter(sorted(out.glob(f"*{MARK}*.json"))), None)
    if stale is not None:
        raise ValueError(
            f"{out} has results of a run without --resume, such as {stale.name}. Use another folder, remove them, or "
            "leave out --resume to do everything again"
        )
    write_text(path, json.dumps(settings) + "\n")
    return False


def is_done(out: Path, path: Path, name: str) -> bool:
    """Whether all that is to be written for a file is there: its JSON file, which is written last, and names it."""
    try:
        return json.loads((out / f"{name}.json").read_text(encoding="utf-8"))["image"] == str(path)
    except (OSError, ValueError, KeyError, TypeError):
        return False
