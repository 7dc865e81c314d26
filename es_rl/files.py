"""Files that are whole or absent, hold plain arrays, and execute nothing when they are read.

An `.npz` file of this library is an uncompressed zip of NumPy arrays plus one member, `header`,
with JSON in bytes; no pickle is ever written or read. The zip's comment is the SHA-256 of all bytes
before it, so that a change anywhere in the file is told. Files from before there was a comment are
read too, guarded by zip's own checksum of each member.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import re
import secrets
import struct
import zipfile
from collections.abc import Mapping
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "DamagedFileError",
    "add_array",
    "check_members",
    "decode_array",
    "is_sealed",
    "read_npz",
    "sealed",
    "write_bytes",
    "write_npz",
    "write_text",
]

_HEADER = "header"
_MEMBERS = "arrays"
_CHECKSUM = "checksum"
_SEAL = b"sha256:"
_DIGITS = 64  # of a SHA-256 in hexadecimal
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
_NPY_MAGIC = b"\x93NUMPY\x01\x00"
_NPY_KINDS = "biufcSU"  # booleans, numbers and text
_NPY_HEADER = re.compile(
    rf"\{{'descr': '([<>|=][{_NPY_KINDS}]\d{{1,9}})', 'fortran_order': (False|True), "
    r"'shape': \(([\d, ]*)\), \}\s*"
)


class DamagedFileError(ValueError):
    """A file that is not whole, was changed, or is something else than its reader expects."""


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path` so that a reader, or a crash, meets the old file or the new one."""
    path = os.fspath(path)
    folder = os.path.dirname(path) or "."
    temporary = os.path.join(folder, f".{os.path.basename(path)}.{secrets.token_hex(6)}.tmp")
    # the system gives the mode that open() would: mkstemp makes private files, and who wants to
    # know the umask has to change it, for all threads
    handle = os.open(temporary, _NEW_FILE, 0o666)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        _sync_folder(folder)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


def _sync_folder(folder: str) -> None:
    """Let a power failure not take back a rename, where the system can do so."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_npz(
    path: str | os.PathLike[str], header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Write `arrays` and a JSON `header` to one .npz file, whole or not at all.

    Raises:
        TypeError: if an array holds Python objects, or the header cannot be written as JSON.
        ValueError: if an array is called "header".
    """
    if _HEADER in arrays:
        raise ValueError(f"no array may be called {_HEADER!r}")
    # zip's checksums cover each member, but neither the list of them nor the comment
    text = json.dumps({**header, _CHECKSUM: "sha256", _MEMBERS: list(arrays)})
    members = {_HEADER: np.frombuffer(text.encode(), np.uint8), **arrays}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, value in members.items():
            add_array(archive, name, value)
    write_bytes(path, sealed(buffer.getvalue()))


def sealed(archive: bytes) -> bytes:
    """Return a zip file with, as its comment, the SHA-256 of all that stands before it.

    Args:
        archive: a whole zip file that has no comment.
    """
    # the last two bytes of a zip file without a comment are the comment's length
    body = archive[:-2] + struct.pack("<H", len(_SEAL) + _DIGITS) + _SEAL
    return body + hashlib.sha256(body).hexdigest().encode()


def is_sealed(stream: IO[bytes]) -> bool:
    """Return whether a file ends in the comment that `sealed` writes, and check that it is true.

    Raises:
        ValueError: if the checksum is that of other contents.
    """
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - len(_SEAL) - _DIGITS))
    end = stream.read()
    if not end.startswith(_SEAL):
        return False
    digest, left = hashlib.sha256(), size - _DIGITS
    stream.seek(0)
    while left:
        piece = stream.read(min(left, 1 << 20))
        digest.update(piece)
        left -= len(piece)
    if end[len(_SEAL) :] != digest.hexdigest().encode():
        raise ValueError("its checksum is that of other contents")
    return True


def check_members(archive: zipfile.ZipFile, size: int) -> None:
    """Refuse an archive whose contents are not simply a part of its file of `size` bytes.

    Raises:
        ValueError: if a member is compressed, or all of them together are larger than the file.
    """
    # members may overlap in a hostile file: what counts is the sum of their sizes
    left = size
    for info in archive.infolist():
        left -= info.file_size
        if info.compress_type != zipfile.ZIP_STORED or left < 0:
            raise ValueError(f"member {info.filename!r} is compressed or oversized")


def add_array(archive: zipfile.ZipFile, name: str, array: NDArray[Any]) -> None:
    """Write `array` to `archive` as the member `name`.npy.

    Raises:
        TypeError: if it holds anything but booleans, numbers and text.
    """
    value = np.asarray(array)
    if value.dtype.kind not in _NPY_KINDS:
        raise TypeError(
            f"array {name!r} is of dtype {value.dtype}: files hold booleans, numbers and text, "
            "and never Python objects"
        )
    # a fixed date: the same contents give the same bytes
    info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
    with archive.open(info, "w", force_zip64=True) as stream:
        np.lib.format.write_array(stream, value, allow_pickle=False)


def read_npz(
    path: str | os.PathLike[str], expected_format: str, max_version: int
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read what `write_npz` wrote and return (header, arrays).

    Memory stays within a small multiple of the file's own size, whatever the file claims.

    Raises:
        FileNotFoundError: if there is no such file.
        DamagedFileError: if the file is not whole, was changed, or is something else.
        ValueError: if it is of a newer version.
    """
    name = os.fspath(path)
    if os.path.isdir(name):
        raise DamagedFileError(f"{name}: is a folder, not a file")
    if os.path.exists(name) and not os.path.isfile(name):
        raise DamagedFileError(f"{name}: is a device or a pipe, not a file")
    arrays: dict[str, NDArray[Any]] = {}
    try:
        with open(name, "rb") as stream:
            has_checksum = is_sealed(stream)
            with zipfile.ZipFile(stream) as archive:
                check_members(archive, os.fstat(stream.fileno()).st_size)
                for info in archive.infolist():
                    arrays[info.filename.removesuffix(".npy")] = decode_array(archive.read(info))
        header = json.loads(arrays.pop(_HEADER).tobytes())
    except FileNotFoundError:
        raise
    except (
        zipfile.BadZipFile,
        ValueError,
        KeyError,
        EOFError,
        OSError,
        NotImplementedError,
        RuntimeError,
        struct.error,
    ) as error:
        raise DamagedFileError(f"{name}: not a whole {expected_format} file ({error})") from error
    if not isinstance(header, dict) or header.get("format") != expected_format:
        raise DamagedFileError(f"{name}: not a {expected_format} file")
    version = header.get("version")
    if not isinstance(version, int) or not 1 <= version <= max_version:
        raise ValueError(
            f"{name}: {expected_format} version {version!r}; this library reads 1 to {max_version}"
        )
    wanted = header.pop(_CHECKSUM, None)
    if wanted is not None and not has_checksum:
        raise DamagedFileError(
            f"{name}: not a whole {expected_format} file (its checksum is missing)"
        )
    if header.pop(_MEMBERS, None) != list(arrays):
        raise DamagedFileError(f"{name}: not a whole {expected_format} file (arrays are missing)")
    return header, arrays


def decode_array(data: bytes) -> NDArray[Any]:
    """Return the array that one .npy member holds, as `add_array` writes it.

    NumPy's own reader evaluates the header as a Python literal; here it must match one pattern.

    Raises:
        ValueError: if it is damaged, holds anything but booleans, numbers and text, or is not of
            the size that its header claims.
    """
    start = len(_NPY_MAGIC) + 2
    end = start + int.from_bytes(data[len(_NPY_MAGIC) : start], "little")
    header = _NPY_HEADER.fullmatch(data[start:end].decode("latin-1"))
    if not data.startswith(_NPY_MAGIC) or header is None:
        raise ValueError("not an array of booleans, numbers or text")
    try:
        dtype = np.dtype(header[1])
    except TypeError as error:
        raise ValueError(str(error)) from None
    shape = tuple(int(length) for length in header[3].split(",") if length.strip())
    count = math.prod(shape)
    if len(data) - end != count * dtype.itemsize:
        raise ValueError("an array of another length than it claims")
    flat = np.frombuffer(data, dtype, count, offset=end)
    return flat.reshape(shape, order="F" if header[2] == "True" else "C").copy()
