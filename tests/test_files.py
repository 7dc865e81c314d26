"""Files: whole or absent, without pickle, and safe to read whatever is in them."""

from __future__ import annotations

import io
import os
import pickle
import re
import stat
import struct
import threading
import zipfile

import numpy as np
import pytest

from es_rl import files
from es_rl.files import DamagedFileError, decode_array, read_npz, write_bytes, write_npz, write_text

_HEADER = {"format": "thing", "version": 1, "note": "ε"}

_ARRAYS = [
    np.array(1.5),
    np.arange(6.0).reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(24).reshape(2, 3, 4)[:, ::2, ::-1],
    np.zeros(0),
    np.zeros((3, 0, 2)),
    np.array([True, False]),
    np.array([2**63], np.uint64),
    np.array([1 + 2j]),
    np.arange(4, dtype=">i4"),
    np.float32([np.nan, np.inf, -0.0]),
    np.array(["a", "bε"]),
    np.array([b"x", b"yz"]),
]


def _read(path):
    return read_npz(path, "thing", 1)


@pytest.mark.parametrize("array", _ARRAYS, ids=lambda a: f"{a.dtype}{a.shape}")
def test_arrays_come_back_as_they_were(array, tmp_path):
    write_npz(tmp_path / "f.npz", _HEADER, {"some/name": array})
    header, arrays = _read(tmp_path / "f.npz")
    assert header == _HEADER
    back = arrays["some/name"]
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert back.tobytes() == array.tobytes()
    assert back.flags.writeable


def test_numpy_reads_the_files_too(tmp_path):
    write_npz(tmp_path / "f.npz", _HEADER, {"x": np.arange(3.0)})
    with np.load(tmp_path / "f.npz", allow_pickle=False) as loaded:
        np.testing.assert_array_equal(loaded["x"], np.arange(3.0))


def test_same_contents_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_npz(tmp_path / name, _HEADER, {"x": np.arange(3.0)})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    "array",
    [
        np.array([object()]),
        np.array([1, "a", None], object),
        np.zeros(2, [("a", "f8")]),
        np.zeros(2, "M8[s]"),
        np.zeros(2, "V4"),
    ],
    ids=lambda a: str(a.dtype),
)
def test_arrays_that_could_not_be_read_are_not_written(array, tmp_path):
    with pytest.raises(TypeError, match="array 'x' is of dtype"):
        write_npz(tmp_path / "f.npz", _HEADER, {"x": array})
    assert os.listdir(tmp_path) == []


def test_headers_that_are_not_json_and_clashing_names_are_not_written(tmp_path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_npz(tmp_path / "f.npz", {"x": object()}, {})
    with pytest.raises(ValueError, match="no array may be called 'header'"):
        write_npz(tmp_path / "f.npz", _HEADER, {"header": np.zeros(1)})
    assert os.listdir(tmp_path) == []


class _Interrupted(BaseException):
    pass


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize(
    "error", [OSError("disk full"), _Interrupted()], ids=["error", "interrupt"]
)
@pytest.mark.parametrize("exists", [True, False])
def test_a_write_that_fails_leaves_what_was_there(function, error, exists, tmp_path, monkeypatch):
    path = tmp_path / "f.txt"
    if exists:
        write_text(path, "old")

    def fail(*args):
        raise error

    monkeypatch.setattr(files.os, function, fail)
    with pytest.raises(type(error)):
        write_text(path, "new")
    monkeypatch.undo()
    assert os.listdir(tmp_path) == (["f.txt"] if exists else [])
    if exists:
        assert path.read_text() == "old"


def test_a_reader_never_meets_a_half_written_file(tmp_path, monkeypatch):
    # at the moment of the rename, the old file is whole and the new one is whole beside it
    path, seen = tmp_path / "f.txt", []
    write_text(path, "old")
    replace = os.replace

    def noting(source, target):
        with open(source) as new, open(target) as old:
            seen.append((old.read(), new.read()))
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", noting)
    write_text(path, "new contents")
    assert seen == [("old", "new contents")]
    assert path.read_text() == "new contents"
    assert os.listdir(tmp_path) == ["f.txt"]


def test_files_have_the_mode_that_open_would_give(tmp_path):
    mask = os.umask(0o027)
    try:
        write_text(tmp_path / "f.txt", "x")
        with open(tmp_path / "g.txt", "w") as stream:
            stream.write("x")
    finally:
        os.umask(mask)
    modes = [os.stat(tmp_path / name).st_mode for name in ("f.txt", "g.txt")]
    assert modes[0] == modes[1]


def test_writing_never_touches_the_umask_of_other_threads(tmp_path, monkeypatch):
    def refuse(mask):
        raise AssertionError("the umask belongs to the whole process")

    monkeypatch.setattr(files.os, "umask", refuse)
    write_bytes(tmp_path / "f", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_files_of_other_threads_keep_their_mode_while_this_library_writes(tmp_path):
    mask = os.umask(0o027)
    try:
        stop = threading.Event()

        def write(name):
            while not stop.is_set():
                write_bytes(tmp_path / name, b"x")

        threads = [threading.Thread(target=write, args=(name,)) for name in "ab"]
        for thread in threads:
            thread.start()
        modes = set()
        for i in range(500):
            handle = os.open(tmp_path / f"own-{i}", os.O_CREAT | os.O_WRONLY, 0o666)
            modes.add(stat.S_IMODE(os.fstat(handle).st_mode))
            os.close(handle)
        stop.set()
        for thread in threads:
            thread.join()
    finally:
        os.umask(mask)
    assert modes == {0o640}


def test_a_missing_folder_is_reported(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_bytes(tmp_path / "none" / "f", b"x")


def test_paths_without_a_folder_are_the_current_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_text("f.txt", "ε")
    assert (tmp_path / "f.txt").read_bytes() == "ε".encode()


def _zip(members, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _npy(text, data=b"", version=(1, 0)):
    text = text.encode("latin-1")
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H", len(text)) + text + data


def _good_header():
    data = b'{"format": "thing", "version": 1, "arrays": ["x"]}'
    shape = f"({len(data)},)"
    return _npy(f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n", data)


_FLOATS = "{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }"

_HOSTILE_ARRAYS = {
    "pickled": _npy(
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n", pickle.dumps([print])
    ),
    "more than there is": _npy(_FLOATS.replace("(2,)", "(3,)"), bytes(16)),
    "less than there is": _npy(_FLOATS.replace("(2,)", "(1,)"), bytes(16)),
    "enormous": _npy(_FLOATS.replace("(2,)", "(4611686018427387904, 4)"), bytes(16)),
    "wrapping to the true size": _npy(_FLOATS.replace("(2,)", f"({2**61 + 2},)"), bytes(16)),
    "negative": _npy(_FLOATS.replace("(2,)", "(-2,)"), bytes(16)),
    "structured": _npy(_FLOATS.replace("'<f8'", "[('a', '<f8')]"), bytes(16)),
    "an expression": _npy(_FLOATS.replace("(2,)", "(1+1,)"), bytes(16)),
    "a call": _npy(_FLOATS.replace("(2,)", "(exit(),)"), bytes(16)),
    "unclosed": _npy(_FLOATS.replace("(2,)", "("), bytes(16)),
    "unknown kind": _npy(_FLOATS.replace("<f8", "<f3"), bytes(16)),
    "huge items": _npy(_FLOATS.replace("<f8", "<U999999999"), bytes(16)),
    "no size of items": _npy(_FLOATS.replace("<f8", "<f"), bytes(16)),
    "newer version": _npy(_FLOATS, bytes(16), (3, 0)),
    "header beyond the end": b"\x93NUMPY\x01\x00\xff\xff" + _FLOATS.encode(),
    "empty": b"",
    "text": b"hello",
}


@pytest.mark.parametrize("name", _HOSTILE_ARRAYS)
def test_hostile_arrays_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match=r"array|data type|dtype"):
        decode_array(_HOSTILE_ARRAYS[name])
    (tmp_path / "f.npz").write_bytes(
        _zip({"header.npy": _good_header(), "x.npy": _HOSTILE_ARRAYS[name]})
    )
    with pytest.raises(ValueError, match="not a whole thing file"):
        _read(tmp_path / "f.npz")


def test_these_hostile_arrays_would_be_read_if_they_were_not_hostile(tmp_path):
    (tmp_path / "f.npz").write_bytes(
        _zip({"header.npy": _good_header(), "x.npy": _npy(_FLOATS, np.arange(2.0).tobytes())})
    )
    np.testing.assert_array_equal(_read(tmp_path / "f.npz")[1]["x"], [0.0, 1.0])


def test_compressed_members_are_refused_before_they_are_unpacked(tmp_path):
    bomb = _npy(_FLOATS.replace("(2,)", "(12500000,)"), bytes(10**8))
    path = tmp_path / "f.npz"
    path.write_bytes(_zip({"header.npy": _good_header(), "x.npy": bomb}, zipfile.ZIP_DEFLATED))
    assert path.stat().st_size < 10**6
    with pytest.raises(ValueError, match="is compressed or oversized"):
        _read(path)


def test_members_that_share_their_bytes_are_refused(tmp_path):
    # 50 entries of the directory that all point at one member claim 50 times the file
    array = _npy(_FLOATS.replace("(2,)", "(12500,)"), bytes(10**5))
    data = _zip({"header.npy": _good_header(), "x.npy": array})
    start = struct.unpack("<I", data[-6:-2])[0]
    directory = data[start:-22]
    entry = directory[directory.index(b"PK\x01\x02", 4) :]
    end = struct.pack(
        "<4s4H2IH", b"PK\x05\x06", 0, 0, 51, 51, len(directory) + 49 * len(entry), start, 0
    )
    (tmp_path / "f.npz").write_bytes(data[:start] + directory + 49 * entry + end)
    with pytest.raises(ValueError, match="is compressed or oversized"):
        _read(tmp_path / "f.npz")


@pytest.mark.parametrize(
    "header",
    [b"", b"{", b"[]", b"\xff\xfe", b"null", b"1", b"[" * 100_000, b'{"version": 1}'],
)
def test_headers_that_say_nothing_are_refused(header, tmp_path):
    shape = f"({len(header)},)"
    member = _npy(f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n", header)
    (tmp_path / "f.npz").write_bytes(_zip({"header.npy": member}))
    with pytest.raises(ValueError, match=r"not a (whole )?thing file"):
        _read(tmp_path / "f.npz")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK", _zip({}), _zip({"x.npy": b"hello"})])
def test_other_files_are_refused(content, tmp_path):
    (tmp_path / "f.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"f\.npz: not a whole thing file"):
        _read(tmp_path / "f.npz")


def test_folders_and_absent_files_are_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError):
        _read(tmp_path / "none.npz")
    with pytest.raises(ValueError, match="is a folder, not a file"):
        _read(tmp_path)


@pytest.mark.parametrize("version", [0, -1, 2, 99, 1.0, "1", None])
def test_only_versions_that_this_library_reads_are_read(version, tmp_path):
    write_npz(tmp_path / "f.npz", {"format": "thing", "version": version}, {})
    with pytest.raises(ValueError, match="this library reads 1 to 1"):
        _read(tmp_path / "f.npz")


def test_the_files_of_another_format_are_refused(tmp_path):
    write_npz(tmp_path / "f.npz", _HEADER, {})
    with pytest.raises(ValueError, match="not a other file"):
        read_npz(tmp_path / "f.npz", "other", 1)


@pytest.fixture(scope="module")
def small_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "f.npz"
    write_npz(path, _HEADER, {"x": np.arange(3.0)})
    return path.read_bytes()


def test_a_truncated_file_is_refused_wherever_it_was_cut(small_file, tmp_path):
    path = tmp_path / "f.npz"
    for length in range(0, len(small_file), 7):
        path.write_bytes(small_file[:length])
        with pytest.raises(ValueError, match="not a whole thing file"):
            _read(path)


def test_every_flipped_bit_is_found(small_file, tmp_path):
    # every 11th, which takes every bit of a byte in turn
    path = tmp_path / "f.npz"
    for bit in range(0, 8 * len(small_file), 11):
        data = bytearray(small_file)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        with pytest.raises(DamagedFileError, match="not a whole thing file"):
            _read(path)


def test_what_is_appended_or_put_in_front_is_found(small_file, tmp_path):
    path = tmp_path / "f.npz"
    for data in (small_file + b"\0", b"\0" + small_file, small_file + small_file):
        path.write_bytes(data)
        with pytest.raises(DamagedFileError, match="not a whole thing file"):
            _read(path)


def test_files_from_before_there_was_a_checksum_are_read_and_others_need_theirs(tmp_path):
    data = _npy(_FLOATS, np.arange(2.0).tobytes())
    (tmp_path / "old.npz").write_bytes(_zip({"header.npy": _good_header(), "x.npy": data}))
    np.testing.assert_array_equal(_read(tmp_path / "old.npz")[1]["x"], [0.0, 1.0])
    write_npz(tmp_path / "new.npz", _HEADER, {"x": np.arange(2.0)})
    with zipfile.ZipFile(tmp_path / "new.npz", "a") as archive:
        assert re.fullmatch(rb"sha256:[0-9a-f]{64}", archive.comment)
        archive.comment = b""
    with pytest.raises(DamagedFileError, match="its checksum is missing"):
        _read(tmp_path / "new.npz")


def test_pipes_and_devices_are_refused_without_waiting_for_them(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(DamagedFileError, match="is a device or a pipe"):
            _read(path)


def test_a_rename_is_made_to_last(tmp_path, monkeypatch):
    order = []
    for function in ("fsync", "replace"):
        real = getattr(os, function)

        def noting(*args, function=function, real=real):
            kind = "folder" if os.path.isdir(f"/proc/self/fd/{args[0]}") else "file"
            order.append(kind if function == "fsync" else function)
            return real(*args)

        monkeypatch.setattr(files.os, function, noting)
    write_text(tmp_path / "f.txt", "x")
    assert order == ["file", "replace", "folder"]
