"""Plain pickles of dicts with NumPy arrays, read without running anything in them.

A pickle is a program that may call any function Python can import. Detectron and detectron2 publish weights that way,
and their files need very little of it: dicts, lists, strings, numbers and NumPy arrays. :func:`read_pickle` knows
stand-ins for just these, and refuses a file that asks for anything else. Arrays are taken apart here rather than by
NumPy, whose unpickling trusts shapes and types.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Numbers a tensor can hold, as NumPy writes their types.
NUMBERS = frozenset({"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1"})
# Extension registries and persistent ids reach code and files outside the pickle.
_FOREIGN = frozenset({"EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID", "NEXT_BUFFER", "READONLY_BUFFER"})
_MEMO = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})


class RefusedPickle(ValueError):
    """A pickle that asks for something a file of weights does not need."""


def read_pickle(data: bytes) -> Any:
    """What a pickle holds, with :class:`PickledArray` for arrays.

    Args:
        data: A pickle of any protocol; byte strings of Python 2 are read as latin-1.

    Raises:
        RefusedPickle: It asks for something else than dicts, lists, numbers and arrays; the message names it.
        Exception: It is damaged: of many types, as :mod:`pickle` raises them.
    """
    _check_instructions(data)
    try:
        return _Unpickler(data).load()
    except RecursionError as error:
        raise RefusedPickle("it is nested too deeply") from error


class _Budget:
    """How much may still be made of a pickle: its bytes become bytes, and then numbers, once each.

    Without it a file could have one long string turned into bytes a million times, with ten bytes for each time.
    """

    __slots__ = ("_left",)

    def __init__(self, size: int) -> None:
        self._left = 2 * size

    def take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise RefusedPickle("it makes far more of its bytes than it has")


class PickledArray:
    """A NumPy array in a pickle; :meth:`tensor` makes it one, once and for all places that refer to it."""

    __slots__ = ("_tensor", "budget", "dtype", "fortran", "raw", "shape")

    def __init__(self) -> None:
        self._tensor: Tensor | None = None
        self.budget: _Budget | None = None
        self.shape = self.dtype = self.fortran = self.raw = None

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise pickle.UnpicklingError("an array without shape, type and numbers")
        self.shape, self.dtype, self.fortran, self.raw = state[-4:]

    def tensor(self) -> Tensor:
        """The numbers, in the machine's byte order.

        Raises:
            RefusedPickle: Not an array of numbers, or not as many bytes as its shape says.
        """
        if self._tensor is None:
            self._tensor = self._read()
        return self._tensor

    def _read(self) -> Tensor:
        code = self.dtype.code if isinstance(self.dtype, _PickledType) else None
        if code is None or code[1:] not in NUMBERS:
            raise RefusedPickle(f"an array of type {code!r}, which is none of numbers")
        raw = self.raw.encode("latin1") if isinstance(self.raw, str) else self.raw
        sizes = self.shape if isinstance(self.shape, tuple) else (-1,)
        if not isinstance(raw, (bytes, bytearray)) or not all(type(n) is int and 0 <= n < 1 << 62 for n in sizes):
            raise RefusedPickle("an array without a shape or without numbers")
        dtype = np.dtype(code)
        if len(sizes) > 32 or math.prod(sizes) * dtype.itemsize != len(raw):
            raise RefusedPickle(f"an array of shape {list(sizes)} and type {code!r} with {len(raw)} bytes")
        if self.budget is not None:
            self.budget.take(len(raw))
        array = np.frombuffer(raw, dtype).reshape(sizes, order="F" if self.fortran else "C")
        # A copy of ours: contiguous, in native order, and writable, as torch wants it.
        return torch.from_numpy(array.astype(dtype.newbyteorder("="), order="C", copy=True))


class _PickledType:
    """The type of an array: byte order and a code such as "f4"."""

    __slots__ = ("code",)

    def __init__(self, code: Any) -> None:
        if not isinstance(code, str) or len(code) > 8:
            raise pickle.UnpicklingError(f"{code!r:.40} is no type of an array")
        self.code = code if code[:1] in "<>|=" else f"={code}"

    def __setstate__(self, state: Any) -> None:
        # (version, byte order, subarray, names, fields, …): the last three are of structures.
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", ">", "|", "=") or any(state[2:5]):
            raise pickle.UnpicklingError("a type of an array that is not one number")
        self.code = state[1] + self.code[1:]


class _Stand:
    """What a pickle may call, in place of what it asks for.

    Neither function nor class: a pickle can set attributes of those, and so change them for later files.
    """

    __slots__ = ("_budget", "_make")

    def __init__(self, make: Callable[..., Any], budget: _Budget) -> None:
        self._make, self._budget = make, budget

    def __call__(self, *arguments: Any) -> Any:
        result = self._make(*arguments)
        if isinstance(result, PickledArray):
            result.budget = self._budget
        elif isinstance(result, (bytes, dict)):
            self._budget.take(len(result))
        return result

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes what it calls")


def _empty_array(*_: Any) -> PickledArray:
    return PickledArray()  # what follows has shape, type and numbers


def _whole_array(raw: Any, dtype: Any, shape: Any, order: Any = "C") -> PickledArray:
    array = PickledArray()
    array.__setstate__((shape, dtype, order == "F", raw))
    return array


def _scalar(dtype: Any, raw: Any) -> float | int | bool:
    return _whole_array(raw, dtype, ()).tensor().item()


def _latin1(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("bytes in an encoding that pickles do not use")
    return text.encode("latin1")


def _bytes(*arguments: Any) -> bytes:
    if arguments:  # Python 3 writes empty bytes so into old protocols, and others as text
        raise pickle.UnpicklingError("bytes made of something else")
    return b""


def _dict(*arguments: Any) -> dict:
    return dict(*arguments[:1])


_NUMPY = ("numpy.core", "numpy._core")  # before and since NumPy 2
_STANDS: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): _dict,
    ("builtins", "dict"): _dict,
    ("builtins", "bytes"): _bytes,
    ("__builtin__", "dict"): _dict,
    ("__builtin__", "bytes"): _bytes,
    ("_codecs", "encode"): _latin1,
    ("numpy", "dtype"): lambda code, *_: _PickledType(code),
    ("numpy", "ndarray"): _empty_array,
    **{(f"{name}.multiarray", "_reconstruct"): _empty_array for name in _NUMPY},
    **{(f"{name}.multiarray", "scalar"): _scalar for name in _NUMPY},
    **{(f"{name}.numeric", "_frombuffer"): _whole_array for name in _NUMPY},
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self._budget = _Budget(len(data))

    def find_class(self, module: str, name: str) -> _Stand:
        if (module, name) not in _STANDS:
            raise RefusedPickle(f"it asks for {module}.{name}, which weights do not need and may be code")
        return _Stand(_STANDS[module, name], self._budget)

    def persistent_load(self, pid: Any) -> Any:
        raise RefusedPickle("it refers to something outside itself")


def _check_instructions(data: bytes) -> None:
    """Refuses, before anything is done, instructions that reach outside the pickle or take memory without bound."""
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in _FOREIGN:
            raise RefusedPickle(f"it has the instruction {opcode.name}, which reaches outside the file")
        if opcode.name in _MEMO and argument > len(data):
            raise RefusedPickle(f"it numbers an object {argument}, more than it has bytes")
