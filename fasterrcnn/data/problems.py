"""What is wrong with a data set, and what was done about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass

POLICIES = ("repair", "skip", "error")
"""What opening a data set does about problems.

"repair": boxes are clipped or left out, images that cannot be used are left out. "skip": every image with a problem is
left out whole. "error": any problem is an error.
"""

# Kinds of problems, and those that are none by themselves but worth knowing.
KINDS = {
    "missing image": "an image file is not there",
    "damaged image": "an image file cannot be decoded",
    "wrong size": "an image has another size than its boxes are for",
    "missing annotation": "an image has no annotation file",
    "broken XML": "an annotation file is no XML, or not of this kind",
    "broken entry": "an entry of a list or of a JSON file is not as the format has it",
    "duplicate id": "an id is used twice",
    "unknown image": "an annotation is for an image that is not listed",
    "unknown class": "an object is of a class nobody announced",
    "bad box": "a box is missing, or not four finite numbers",
    "box without area": "a box has no width or no height",
    "box outside": "a box reaches beyond its image, or lies beyond it",
}
NOTES = {
    "no objects": "an image without objects: kept, as background",
    "same file": "several images of the list are one file",
}


@dataclass(frozen=True)
class Problem:
    """One problem.

    Attributes:
        kind: a key of ``KINDS`` or ``NOTES``.
        file: where it is.
        text: what exactly, with the object or entry it is about.
        done: what was done: "left the box out", "clipped the box", …
    """

    kind: str
    file: str
    text: str
    done: str

    @property
    def is_note(self) -> bool:
        return self.kind in NOTES

    def __str__(self) -> str:
        return f"{self.file}: {self.kind}: {self.text}; {self.done}"

    def as_record(self) -> dict[str, str]:
        """For JSON."""
        return {**asdict(self), "level": "note" if self.is_note else "problem"}


class ProblemLog(list[Problem]):
    """Problems in the order they were met."""

    def add(self, kind: str, file: object, text: str, done: str) -> None:
        """Notes one."""
        if kind not in KINDS and kind not in NOTES:
            raise KeyError(kind)
        self.append(Problem(kind, str(file), text, done))

    @property
    def real(self) -> list[Problem]:
        """Those that are more than notes."""
        return [problem for problem in self if not problem.is_note]

    def summary(self) -> str:
        """One line: how many of which kind."""
        counts = Counter(problem.kind for problem in self)
        return ", ".join(f"{count} × {kind}" for kind, count in counts.most_common())


class DataError(ValueError):
    """A data set that cannot be used; the message names the file.

    Attributes:
        problems: all that was found until then.
    """

    def __init__(self, message: str, problems: Iterable[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = ProblemLog(problems)


def listed(problems: Iterable[Problem], most: int = 10) -> str:
    """The first problems, a line each, and how many more there are."""
    problems = list(problems)
    lines = [f"  {problem}" for problem in problems[:most]]
    if len(problems) > most:
        lines.append(f"  … and {len(problems) - most} more")
    return "\n".join(lines)


def check_policy(policy: str) -> str:
    """The policy, if it is one.

    Raises:
        ValueError: It is none.
    """
    if policy not in POLICIES:
        raise ValueError(f"problems must be one of {', '.join(POLICIES)}, got {policy!r}")
    return policy
