"""Where images come from. One file a source; the union at the end is the registry.

A source is a frozen dataclass with a `kind` and a method `open() -> Images`.
"""

from pipeline.data.sources.base import Images, Item, array_items
from pipeline.data.sources.cifar import CifarBinary, CifarPython
from pipeline.data.sources.folder import Folder
from pipeline.data.sources.idx import Idx
from pipeline.data.sources.mnist5k import Mnist5k
from pipeline.data.sources.parquet import ParquetImages

Source = Mnist5k | Folder | Idx | ParquetImages | CifarBinary | CifarPython

__all__ = [
    "CifarBinary",
    "CifarPython",
    "Folder",
    "Idx",
    "Images",
    "Item",
    "Mnist5k",
    "ParquetImages",
    "Source",
    "array_items",
]
