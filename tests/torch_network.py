"""The networks of `es_rl.envs.dense_kernels` once more, in PyTorch and double precision."""

from __future__ import annotations

from itertools import pairwise

import torch


def network_logits(params, sizes, gelu, inputs):
    """The last layer's outputs (batch, sizes[-1]) for `inputs` (batch, sizes[0])."""
    hidden, begin = torch.tensor(inputs, dtype=torch.float64), 0
    for layer, (n_in, n_out) in enumerate(pairwise([int(n) for n in sizes])):
        if layer and gelu:
            hidden = torch.nn.functional.gelu(hidden, approximate="tanh")
        elif layer:
            hidden = hidden.relu()
        weights = params[begin : begin + n_in * n_out].reshape(n_in, n_out)
        begin += (n_in + 1) * n_out
        hidden = hidden @ weights + params[begin - n_out : begin]
    assert begin == len(params)
    return hidden
