"""Data sets, and anyone's own data, in the form that a likelihood scores.

A likelihood is a mass or a density on a support, and its values mean something only for data
that lie there:

- Bernoulli is a mass on {0, 1}: binary data;
- ContinuousBernoulli is a density on the closed interval [0, 1]: grey levels, ends included;
- DiscretizedLogistic is a mass on 0 ... L - 1: grey levels as they are stored;
- Categorical and Ordinal are masses on 0 ... K - 1: classes;
- Poisson, NegativeBinomial and its zero-inflated kin are masses on 0, 1, 2, ...: counts;
- Normal, StudentT and Laplace are densities on the line: real numbers.

x log p + (1 - x) log(1 - p) is computed for grey x without complaint, but it is no likelihood: it
does not integrate to 1, so bounds built on it compare with nothing. A data set therefore states
its likelihoods, `load` hands it out in the form of one of them and says how it was made, and
`binarize` makes grey data binary by a policy that is named.
"""

from __future__ import annotations

__all__ = [
    "Data",
    "Source",
    "as_tensor",
    "batches",
    "binarize",
    "datasets",
    "load",
    "read",
    "register",
]

from pyro_vae.datasets import bundled as _bundled  # noqa: F401 - fills the shelf
from pyro_vae.datasets.convert import as_tensor, batches, binarize
from pyro_vae.datasets.data import Data, Source, datasets, load, register
from pyro_vae.datasets.files import read
