"""Datasets, samplers and the loader that makes batches of them.

In: anything that can be indexed or iterated for examples. Out: batches of tensors, in a fixed order, from this
process or from forked workers. Knows nothing of modules or tracing.
"""

from tracejit.data.collate import default_collate, default_convert
from tracejit.data.dataset import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset, random_split
from tracejit.data.loader import DataLoader
from tracejit.data.sampler import BatchSampler, RandomSampler, Sampler, SequentialSampler, WeightedRandomSampler
from tracejit.data.worker import WorkerInfo, get_worker_info

__all__ = [
    "BatchSampler",
    "ConcatDataset",
    "DataLoader",
    "Dataset",
    "IterableDataset",
    "RandomSampler",
    "Sampler",
    "SequentialSampler",
    "Subset",
    "TensorDataset",
    "WeightedRandomSampler",
    "WorkerInfo",
    "default_collate",
    "default_convert",
    "get_worker_info",
    "random_split",
]
