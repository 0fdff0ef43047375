"""Stored shards to exact, resumable batches of uint8 pictures."""

from jobs.shards.dataset import Dataset, open_dataset
from jobs.shards.decode import PictureError, decode
from jobs.shards.errors import DamagedSampleError, IndexMismatchError, ShardError, SourceError
from jobs.shards.loader import Batch, Loader, read_in_order
from jobs.shards.order import Order

__all__ = [
    "Batch",
    "DamagedSampleError",
    "Dataset",
    "IndexMismatchError",
    "Loader",
    "Order",
    "PictureError",
    "ShardError",
    "SourceError",
    "decode",
    "open_dataset",
    "read_in_order",
]
