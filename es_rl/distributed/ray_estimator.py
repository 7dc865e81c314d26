"""The estimators on Ray, by their options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from es_rl.distributed.estimator import DEFAULT_WORKER_TIMEOUT, DistributedEstimator
from es_rl.distributed.holder import EstimatorSpec
from es_rl.distributed.ray_pool import RayPool
from es_rl.tasks import UnrolledTask

__all__ = ["RayEstimator"]


class RayEstimator(DistributedEstimator):
    """An estimator whose pairs are spread over Ray actors, with the bits of one process.

    Give it to a `Trainer` as any other, and `close` it, or use it in a `with` statement.

    Args:
        algorithm: its name in `es_rl.estimators.ESTIMATORS`.
        make_task: returns a new task, in whatever process: a function of a module that all
            machines can import, a `functools.partial` of one, or a lambda.
        n_workers: actors; None for one on each `n_threads` processors of the cluster, as far as
            there are pairs for them.
        address: of a cluster, as `ray start --head` prints it, or "auto"; None for one of this
            machine alone, or that to which the program is connected already.
        n_threads: processors that Ray sets aside for each actor; `make_task` should make tasks
            that use as many.
        worker_timeout: seconds that an actor may take for one window before it counts as hung and
            is replaced; None for no limit.
        on_replacement: is told, in one line, of every actor that is replaced; None to log it.
        **options: of the estimator, such as n_pairs, unroll_length, sigma and seed.

    Raises:
        RayUnavailableError: if Ray is not installed, or the cluster does not answer.
        ValueError: names the option that is out of range.
    """

    def __init__(
        self,
        algorithm: str,
        make_task: Callable[[], UnrolledTask],
        *,
        n_workers: int | None = None,
        address: str | None = None,
        n_threads: int = 1,
        worker_timeout: float | None = DEFAULT_WORKER_TIMEOUT,
        on_replacement: Callable[[str], None] | None = None,
        **options: Any,
    ) -> None:
        spec = EstimatorSpec(algorithm, make_task, options)
        pool = RayPool(address, n_workers=n_workers, n_threads=n_threads)
        try:
            super().__init__(
                spec,
                pool,
                n_workers=n_workers,
                worker_timeout=worker_timeout,
                on_replacement=on_replacement,
            )
        except BaseException:
            pool.close()
            raise
