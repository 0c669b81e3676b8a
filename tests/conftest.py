"""What all tests share."""

import os

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # what they compare with was computed on CPUs; gpu_check.py is for a GPU
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # models come from tests/.models and tests/data, never from the network
