"""Programs whose calls are to be replayed."""

from __future__ import annotations

import itertools

import tracejit as tj
from tests.trace.values import bits
from tracejit import nn
from tracejit.trace.compiled import region_of


def net(*sizes):
    tj.manual_seed(1)
    layers = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def both(make, calls=12, least=1):
    """A program run eagerly and compiled: equal at each call, and replayed at least so often; the region."""
    tj.manual_seed(5)
    plain, args, state = make()
    expected = []
    for i in range(calls):
        expected.append((bits(plain(*args(i))), bits(state()), tj.get_rng_state().tolist()))
    tj.manual_seed(5)
    function, args, state = make()
    compiled = tj.compile(function)
    for i in range(calls):
        found = (bits(compiled(*args(i))), bits(state()), tj.get_rng_state().tolist())
        assert found == expected[i], f"call {i}"
    region = region_of(compiled)
    assert region.calls.replayed >= least, region.prover.obstacles
    return region
