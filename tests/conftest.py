"""Before any test imports mlx: a fast BLAS where there is one, and no library on the network."""

from base_model.fast_cpu import prepare_cpu
from base_model.offline import stay_offline

stay_offline(hub_allowed=False)
prepare_cpu(threads=1)
