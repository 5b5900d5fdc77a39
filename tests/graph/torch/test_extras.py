"""torch and torch_geometric are asked for by name when they are missing, and brought in by nobody who does not need them."""

import subprocess
import sys

import pytest


def run(code):
    return subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(("missing", "module"), [("torch", "torch"), ("torch", "pyg"), ("torch_geometric", "pyg")])
def test_what_is_missing_names_the_extra_that_brings_it(missing, module):
    done = run(f"import sys; sys.modules[{missing!r}] = None; import fondaco as fd; fd.graph.{module}")
    assert done.returncode == 1
    assert f"MissingExtraError: {'training' if missing == 'torch' else 'PyG'}" in done.stderr
    assert f"needs {missing!r}: pip install 'fondaco[graph]'" in done.stderr


def test_loaders_work_without_torch_geometric(platform):
    done = run(
        "import sys; sys.modules['torch_geometric'] = None\n"
        "import fondaco as fd\n"
        f"with fd.open({str(platform.directory)!r}) as platform, platform.graph('pages') as graph:\n"
        "    (batch,) = fd.graph.torch.NeighborLoader(graph, [100, 107], [2])\n"
        "    print(type(batch).__name__, batch.batch_size)\n"
    )
    assert (done.stdout, done.stderr) == ("Batch 2\n", "")


def test_deepgnns_client_brings_in_neither():
    done = run("import sys, fondaco.graph.deepgnn; print('torch' in sys.modules, 'numba' in sys.modules)")
    assert done.stdout == "False False\n", done.stderr
