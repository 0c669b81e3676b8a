"""What all tests share."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # models come from tests/.models and tests/data, never from the network
