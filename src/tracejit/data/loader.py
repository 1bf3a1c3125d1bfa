"""DataLoader: batches of a dataset, fetched here or by worker processes."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import repeat
from typing import Any

from tracejit.data.collate import default_collate, default_convert
from tracejit.data.dataset import IterableDataset
from tracejit.data.fetch import Fetcher
from tracejit.data.sampler import BatchSampler, RandomSampler, SequentialSampler
from tracejit.data.worker import Failure, Finished, Worker, WorkerInfo
from tracejit.runtime.cuda.driver import available
from tracejit.tensor import randint

__all__ = ["DataLoader"]


class DataLoader:
    """Iterates over a dataset in batches.

    Edge: with workers, batches come in the same order as without; a worker's error is raised here with its traceback.
    Raises: ValueError for options that exclude each other or are out of range.

    >>> import tracejit as tj
    >>> data = tj.data.TensorDataset(tj.arange(5))
    >>> [batch.tolist() for (batch,) in tj.data.DataLoader(data, batch_size=2)]
    [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Iterable[Any] | None = None,
        batch_sampler: Iterable[Any] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[Any], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], Any] | None = None,
        multiprocessing_context: Any = None,
        generator: Any = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
    ) -> None:
        if num_workers < 0:
            raise ValueError("num_workers option should be non-negative; use num_workers=0 to disable multiprocessing.")
        if timeout < 0:
            raise ValueError("timeout option should be non-negative")
        if num_workers == 0 and prefetch_factor is not None:
            raise ValueError(
                "prefetch_factor option could only be specified in multiprocessing: set num_workers above 0."
            )
        if prefetch_factor is not None and prefetch_factor <= 0:
            raise ValueError("prefetch_factor option should be positive")
        if persistent_workers:
            if num_workers == 0:
                raise ValueError("persistent_workers option needs num_workers > 0")
            raise NotImplementedError("DataLoader: persistent_workers is not supported")
        if multiprocessing_context not in (None, "fork"):
            raise NotImplementedError("DataLoader: workers are forked; no other multiprocessing_context is supported")
        if (pin_memory or pin_memory_device) and available() is None:
            warnings.warn(
                "'pin_memory' argument is set as true but no accelerator is found, so memory is not pinned.",
                UserWarning,
                stacklevel=2,
            )
        self.dataset = dataset
        self.num_workers = num_workers
        self.timeout = timeout
        self.worker_init_fn = worker_init_fn
        self.generator = generator
        self.pin_memory = pin_memory
        self.prefetch_factor = 2 if num_workers and prefetch_factor is None else prefetch_factor
        self._iterable = isinstance(dataset, IterableDataset)
        if self._iterable:
            if shuffle not in (None, False):
                raise ValueError(
                    f"DataLoader with IterableDataset: expected unspecified shuffle option, but got shuffle={shuffle}"
                )
            for name, given in (("sampler", sampler), ("batch_sampler", batch_sampler)):
                if given is not None:
                    raise ValueError(
                        f"DataLoader with IterableDataset: expected unspecified {name} option, but got {name}={given}"
                    )
        if sampler is not None and shuffle:
            raise ValueError("sampler option is mutually exclusive with shuffle")
        if batch_sampler is not None:
            if batch_size != 1 or shuffle or sampler is not None or drop_last:
                raise ValueError(
                    "batch_sampler option is mutually exclusive with batch_size, shuffle, sampler, and drop_last"
                )
            batch_size = None
        elif batch_size is None and drop_last:
            raise ValueError("batch_size=None option disables auto-batching and is mutually exclusive with drop_last")
        if sampler is None:
            if self._iterable:
                sampler = repeat(None)
            elif shuffle:
                sampler = RandomSampler(dataset, generator=generator)
            else:
                sampler = SequentialSampler(dataset)
        if batch_size is not None and batch_sampler is None:
            batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.sampler = sampler
        self.batch_sampler = batch_sampler
        if collate_fn is None:
            collate_fn = default_convert if batch_sampler is None else default_collate
        self.collate_fn = collate_fn

    def _make_fetcher(self) -> Fetcher:
        return Fetcher(self.dataset, self.collate_fn, batched=self.batch_sampler is not None, drop_last=self.drop_last)

    def __iter__(self) -> Iterator[Any]:
        # Drawn whether or not there are workers: their number must not change what else is drawn.
        seed = int(randint(0, 2**62, (), generator=self.generator).item())
        indices = iter(self.sampler if self.batch_sampler is None else self.batch_sampler)
        if self.num_workers == 0:
            return self._fetch_here(indices)
        return self._fetch_by_workers(indices, seed)

    def _fetch_here(self, indices: Iterator[Any]) -> Iterator[Any]:
        fetcher = self._make_fetcher()
        for wanted in indices:
            try:
                batch = fetcher.fetch(wanted)
            except StopIteration:
                if not self._iterable:
                    raise
                return
            yield batch

    def _fetch_by_workers(self, indices: Iterator[Any], seed: int) -> Iterator[Any]:
        workers: list[Worker] = []
        try:
            for number in range(self.num_workers):
                info = WorkerInfo(number, self.num_workers, seed + number, self.dataset)
                pipes = [worker.pipe for worker in workers]
                workers.append(Worker(partial(self._make_fetcher), info, self.worker_init_fn, pipes))
            # Batch k is worker k's modulo their count, and each answers in order: so the batches are in order.
            waiting: deque[Worker] = deque()
            running = set(range(self.num_workers))
            turn = 0

            def ask() -> None:
                nonlocal turn
                while running:
                    worker = workers[turn]
                    turn = (turn + 1) % len(workers)
                    if worker.number in running:
                        for wanted in indices:
                            worker.ask(wanted)
                            waiting.append(worker)
                            break
                        return

            for _ in range(self.num_workers * (self.prefetch_factor or 1)):
                ask()
            while waiting:
                worker = waiting.popleft()
                answer = worker.receive(self.timeout)
                if isinstance(answer, Failure):
                    answer.reraise()
                if isinstance(answer, Finished):
                    running.discard(worker.number)
                    ask()
                    continue
                ask()
                yield answer[1]
        finally:
            for worker in workers:
                worker.stop()

    def __len__(self) -> int:
        if self._iterable:
            count = len(self.dataset)
            if self.batch_size is None:
                return count
            return count // self.batch_size if self.drop_last else -(-count // self.batch_size)
        return len(self.sampler if self.batch_sampler is None else self.batch_sampler)  # type: ignore[arg-type]
