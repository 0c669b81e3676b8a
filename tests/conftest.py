"""What all tests share."""

import os

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # what they compare with was computed on CPUs; gpu_check.py is for a GPU
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # models come from tests/.models and tests/data, never from the network

import pytest


@pytest.fixture(scope="session")
def reduced_folder(tmp_path_factory):
    """Where the recipes and examples of this session run, at reduced size: what one makes, another may need."""
    from reduced import lay_out

    folder = tmp_path_factory.mktemp("recipes")
    lay_out(folder)
    return folder
