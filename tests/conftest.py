"""Tests run single-threaded, so that two workers do not fight over two cores."""

import pytest
import torch
from small import small_system

from reverie.systems import save

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """The file of a small untrained system."""
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    save(small_system(), path)
    return path
