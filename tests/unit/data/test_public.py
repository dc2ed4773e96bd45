import subprocess
import sys

import undertow.data


def test_all_names_exist():
    assert sorted(undertow.data.__all__) == list(undertow.data.__all__)
    for name in undertow.data.__all__:
        assert getattr(undertow.data, name) is not None


def test_torch_is_not_loaded():
    code = "import sys, undertow.data; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
