"""Annotation files in XML, read without trusting them.

A document type declaration is refused: annotations need none, and entities defined in one are how a file of a kilobyte
becomes gigabytes of text ("billion laughs") or reads other files. So is nesting no annotation has.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from fasterrcnn.data.problems import DataError

MAX_BYTES = 16_000_000
MAX_DEPTH = 32


def read_xml(path: str | Path) -> Element:
    """The root element of a file.

    Raises:
        OSError: The file cannot be read.
        DataError: It is no XML, has a document type declaration, or is far larger or deeper than annotations are; the
            message names it.
    """
    path = Path(path)
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise DataError(f"{path}: larger than {MAX_BYTES:,} bytes, which no annotation file is")
    builder, depth = TreeBuilder(), 0
    parser = expat.ParserCreate()
    parser.buffer_text = True

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise DataError(f"{path}: elements inside each other more than {MAX_DEPTH} deep")
        builder.start(name, attributes)

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(name)

    def refuse(*_: object) -> None:
        raise DataError(f"{path}: has a document type declaration (<!DOCTYPE …>), which is refused")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(data, True)
        return builder.close()
    except expat.ExpatError as error:
        raise DataError(f"{path}: no XML ({error})") from error
    except (LookupError, ValueError, AssertionError) as error:  # unknown encodings, and what they make of the bytes
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: no XML ({error})") from error
