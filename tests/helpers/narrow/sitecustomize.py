"""Python imports this module at its start if this folder is in PYTHONPATH."""

import pytest

from helpers.tiny_networks import make_networks_narrow

make_networks_narrow(pytest.MonkeyPatch())
