"""Tests run single-threaded, so that two workers do not fight over two cores."""

import torch

torch.set_num_threads(1)
