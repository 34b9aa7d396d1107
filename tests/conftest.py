"""Before any test imports mlx: a fast BLAS where there is one, and no network; and what many tests want."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from base_model.fast_cpu import prepare_cpu
from base_model.offline import stay_offline

stay_offline(hub_allowed=False)
prepare_cpu(threads=1)

from tests.fakes import FakeDevice  # noqa: E402  it may import mlx


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Where an adapter store may be; nothing is there yet."""
    return tmp_path / "adapters"


@pytest.fixture
def device() -> Iterator[FakeDevice]:
    """A device that is let go at the end, whatever the test held up."""
    device = FakeDevice()
    yield device
    device.let_go()
