"""What model and guide say of the data, as ArviZ reads it: draws, statistics, replicates."""

from pyro_vae.inference_data.convert import to_arviz, to_datasets, wrap
from pyro_vae.inference_data.elpd import as_elpd

__all__ = ["as_elpd", "to_arviz", "to_datasets", "wrap"]
