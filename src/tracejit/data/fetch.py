"""From indices to a batch, in the main process and in workers alike."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

from tracejit.data.collate import default_collate
from tracejit.data.dataset import IterableDataset, Subset, TensorDataset
from tracejit.tensor import Tensor, tensor

__all__ = ["Fetcher"]


class Fetcher:
    """Gives the batch of a list of indices, or of one index where the loader does not batch.

    Edge: for a dataset that is iterated only the count of indices matters; StopIteration tells its end.
    """

    def __init__(self, dataset: Any, collate: Callable[[Any], Any], *, batched: bool, drop_last: bool) -> None:
        self.dataset = dataset
        self.collate = collate
        self.batched = batched
        self.drop_last = drop_last
        self.iterator = iter(dataset) if isinstance(dataset, IterableDataset) else None

    def fetch(self, indices: Any) -> Any:
        """The batch of ``indices``."""
        if self.iterator is not None:
            return self._next(self.iterator, indices)
        if not self.batched:
            return self.collate(self.dataset[indices])
        if self.collate is default_collate:
            quick = _tensors_at(self.dataset, indices)
            if quick is not None:
                return quick
        if hasattr(self.dataset, "__getitems__"):
            return self.collate(self.dataset.__getitems__(indices))
        return self.collate([self.dataset[index] for index in indices])

    def _next(self, iterator: Any, indices: Any) -> Any:
        if not self.batched:
            return self.collate(next(iterator))
        examples = list(islice(iterator, len(indices)))
        if not examples or (self.drop_last and len(examples) < len(indices)):
            raise StopIteration
        return self.collate(examples)


def _tensors_at(dataset: Any, indices: list[int]) -> list[Tensor] | None:
    """The batch of a TensorDataset, or of a part of one, by indexing its tensors once; None for another dataset."""
    while type(dataset) is Subset:
        part = dataset.indices
        indices = [part[index] for index in indices]
        dataset = dataset.dataset
    if type(dataset) is not TensorDataset or not all(type(index) is int for index in indices):
        return None
    rows = tensor(indices)
    return [source[rows] for source in dataset.tensors]
