"""Files that are whole or not there: written beside their place, put on the disk, then renamed into it.

A process may be killed at any moment, and a disk may be full at any byte: whoever reads such a file finds the old
content or the new one. What a killed process leaves beside it is removed by :func:`remove_leftovers`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_ENDING = ".partial"
_LEFTOVER = re.compile(rf"\..+\.\d+{re.escape(_ENDING)}(\.\w+)?")  # of ours; other programs use the ending too


@contextmanager
def replacing(path: str | Path, *, keep: str | Path | None = None) -> Iterator[IO[bytes]]:
    """A binary file open for writing that takes the place of ``path`` when the block ends without an error.

    Args:
        path: In a folder that exists. What is there stays until the new content is on the disk. What is no file, such
            as /dev/null or a pipe, is written to instead of replaced; of a link, what it points to is replaced.
        keep: New name, in the same folder, of what is there.

    Raises:
        OSError: The folder cannot be written to, the disk is full, …; the message names ``path`` and not the temporary
            file beside it. The old file is still there.

    Example:
        >>> with replacing("numbers.json") as file:
        ...     file.write(b"[1, 2]")
    """
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        with path.open("wb") as special:
            yield special
        return
    path = path.resolve() if path.is_symlink() and keep is None else path
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_ENDING}")
    try:
        try:
            with temporary.open("wb") as opened:
                file = _Remembering(opened)
                try:
                    yield file
                except Exception as error:
                    # Who writes through C++ may lose the reason on the way.
                    if file.error is not None and not isinstance(error, OSError):
                        raise file.error from error
                    raise
                opened.flush()
                os.fsync(opened.fileno())
            if keep is not None and path.exists():
                os.replace(path, keep)
            os.replace(temporary, path)
            sync_folder(path.parent)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(error.errno, f"cannot write {path}: {reason}") from error


def write_text(path: str | Path, text: str) -> None:
    """Writes a whole text file in UTF-8, see :func:`replacing`."""
    with replacing(path) as file:
        file.write(text.encode())


def beside(path: Path) -> Path:
    """A hidden name beside a file, with its suffix, for those who must write it in place and rename it themselves."""
    return path.with_name(f".{path.name}.{os.getpid()}{_ENDING}{path.suffix}")


def put(file: Path, path: Path) -> None:
    """Gives a whole file, written :func:`beside` its place, that place."""
    with file.open("rb+") as written:
        os.fsync(written.fileno())
    os.replace(file, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Puts the names of a folder's files on the disk, where the system can."""
    with suppress(OSError):  # Windows opens no folders, some network file systems sync none
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_leftovers(folder: Path) -> None:
    """Removes what killed processes were writing with :func:`replacing`. Nobody may be writing to the folder."""
    for file in folder.glob(f".*{_ENDING}*"):
        if not _LEFTOVER.fullmatch(file.name):
            continue
        with suppress(OSError):
            file.unlink()


class _Remembering:
    """Writes to a file and remembers what went wrong."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        try:
            self._file.flush()
        except OSError as error:
            self.error = self.error or error
            raise
