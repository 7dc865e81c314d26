"""Pairs spread over processes of one or many machines; Ray comes with the extra `es_rl[ray]`."""

from es_rl.distributed.estimator import DistributedEstimator, WorkerLostError
from es_rl.distributed.holder import EstimatorSpec
from es_rl.distributed.ray_estimator import RayEstimator
from es_rl.distributed.ray_pool import RayPool, RayUnavailableError

__all__ = [
    "DistributedEstimator",
    "EstimatorSpec",
    "RayEstimator",
    "RayPool",
    "RayUnavailableError",
    "WorkerLostError",
]
