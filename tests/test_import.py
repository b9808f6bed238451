"""Imports are cheap, and every host class has add_clvq, whichever package is imported first."""

import subprocess
import sys

from tests.hosts import MAJOR


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_imports_neither_torch_nor_transformer_lens():
    heavy = ("torch", "transformer_lens", "transformers", "pandas", "plotly", "sklearn")
    out = run(f"import sys, clvq_lens; print([m for m in {heavy!r} if m in sys.modules])")
    assert out == "[]"


BRIDGE = "from transformer_lens.model_bridge import TransformerBridge as Host"
HOSTS = [BRIDGE, "from transformer_lens import TransformerBridge as Host"][: 1 + (MAJOR > 3)]
if MAJOR == 3:
    HOSTS += [
        "from transformer_lens import HookedTransformer as Host",
        "from transformer_lens import HookedEncoder as Host",
        "from transformer_lens.HookedTransformer import HookedTransformer as Host",
    ]


# What both packages import takes seconds, and is there before the process forks for each order.
FORKING = """
import os, sys
import transformers, pandas, plotly.graph_objects
from transformers import AutoModelForCausalLM, BertForPreTraining, PreTrainedModel

def in_a_process_of_its_own(code):
    sys.stdout.flush()
    if os.fork() == 0:
        exec(code, {})
        sys.stdout.flush()
        os._exit(0)
    os.wait()

"""


def test_hosts_and_their_subclasses_get_add_clvq_in_either_order():
    code = FORKING
    for host in HOSTS:
        for order in (f"import clvq_lens; {host}", f"{host}; import clvq_lens"):
            tried = f"""
{order}
class Sub(Host): pass
print(callable(Host.add_clvq), callable(Sub.add_clvq), type(Sub.clvqs).__name__)"""
            code += f"in_a_process_of_its_own({tried!r})\n"
    assert run(code).splitlines() == ["True True property"] * 2 * len(HOSTS)


def test_help_answers_without_importing_heavy_packages():
    code = """
import sys
from clvq_lens.cli import app
try:
    app(['fit', '--help'])
except SystemExit:
    pass
print([m for m in ('torch', 'transformer_lens', 'pandas', 'plotly') if m in sys.modules])"""
    assert run(code).endswith("[]")


def test_every_public_name_resolves():
    import clvq_lens

    for name in clvq_lens.__all__:
        assert getattr(clvq_lens, name) is not None


def test_version_is_the_installed_one():
    from importlib.metadata import version

    import clvq_lens

    assert clvq_lens.__version__ == version("clvq-lens")
