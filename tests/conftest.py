"""Shared fixtures. Shapes and types of the whole package are checked while the tests run."""

import itertools
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import jaxtyping
import pytest

# Checking takes as long again as what is checked, so the largest tests do without (see Makefile).
if os.environ.get("CLVQ_SHAPES") != "unchecked":
    jaxtyping.install_import_hook("clvq_lens", "beartype.beartype")

import torch

import clvq_lens as cl
from clvq_lens.host.attachment import Attachment
from clvq_lens.host.host import Host
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the other cores have tests of their own
    os.environ["OMP_NUM_THREADS"] = "1"  # and so in kernels of notebooks and other processes

if TYPE_CHECKING:  # TransformerLens 4 has none, and runs the contract suite all the same
    from transformer_lens import HookedTransformer


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that no core waits at the end for another."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path.name != "test_notebooks.py", item.path not in slow))


@pytest.fixture
def as_for_a_user() -> Iterator[None]:
    """Turns off the type checks of the test run, which would refuse wrong types before we do."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Trained models and real data, which are not part of the project."""
    folder = Path(os.environ.get("CLVQ_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "models").is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI needs the trained models and data sets, and {folder} has none")
        pytest.skip(f"no trained models in {folder}; set CLVQ_SHARED to the folder that has them")
    return folder


@pytest.fixture(scope="session")
def stories_model(shared: Path) -> "HookedTransformer":
    """LLaMA-like, 5 layers of width 64, really trained on TinyStories; attach nothing for good."""
    from safetensors.torch import load_file
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformers import AutoTokenizer

    folder = shared / "models" / "stories260K"
    cfg = HookedTransformerConfig(
        **json.loads((folder / "hooked/cfg.json").read_text()), device="cpu"
    )
    tokenizer = AutoTokenizer.from_pretrained(folder / "hf")
    model = HookedTransformer(cfg, tokenizer=tokenizer, default_padding_side="right")
    model.load_state_dict(load_file(folder / "hooked/model.safetensors"), strict=False)
    return model.eval()


@pytest.fixture(scope="session")
def stories(shared: Path) -> list[str]:
    """917 real stories."""
    return json.loads((shared / "data/tinystories/tinystories_917_ascii.json").read_text())


@pytest.fixture
def ctrl_c() -> Iterator[Callable[[], None]]:
    """Presses Ctrl-C, as in the foreground: a process in the background would ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: os.kill(os.getpid(), signal.SIGINT)
    signal.signal(signal.SIGINT, before)


def random_model(**changes: object) -> "HookedTransformer":
    """A tiny GPT-2-like model with random weights and no tokenizer; same seed, same weights."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    options = {
        **{"n_layers": 4, "n_heads": 4, "d_model": 16, "d_head": 4, "d_mlp": 32, "n_ctx": 48},
        **{"d_vocab": 40, "act_fn": "gelu", "seed": 0, "device": "cpu", "model_name": "tiny"},
        "init_weights": True,
    }
    return HookedTransformer(HookedTransformerConfig(**{**options, **changes})).eval()


_NUMBERS = itertools.count()


def attach(
    model: "HookedTransformer", quantizer: CrossLayerQuantizer, source: str, target: str
) -> Attachment:
    """A quantizer on a model, without a lens and with any name."""
    return Attachment(Host(model), quantizer, f"test {next(_NUMBERS)}", source, target)


@pytest.fixture
def model() -> "HookedTransformer":
    """A fresh tiny model."""
    return random_model()


@pytest.fixture
def tokens() -> torch.Tensor:
    """Four sequences of twelve tokens for the tiny model."""
    return torch.randint(0, 40, (4, 12), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def toy() -> "cl.toy.ToyWorld":
    """The toy world: a trained model and texts. Remove what you attach."""
    return cl.toy.load(n_texts=300)


@pytest.fixture
def fitted(model: "HookedTransformer") -> "cl.Lens":
    """A lens on the tiny model, fitted for a moment on random tokens."""
    data = torch.randint(0, 40, (60, 16), generator=torch.Generator().manual_seed(2))
    lens = model.add_clvq(1, 2, n_codes=12, top_k=3)
    lens.fit(data, n_tokens=3_000, batch_tokens=256, progress=False)
    return lens


@pytest.fixture(scope="session")
def chromium() -> Iterator:
    """A headless browser."""
    executable = shutil.which("chromium")
    if executable is None:
        reason = "chromium is not installed; run: apt-get install chromium"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()
