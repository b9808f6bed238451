"""Saved quantizers: exact round trips, refusals that say what is wrong, and a golden file.

``golden/`` holds a quantizer saved by this format version, with what it computed then. It must load
for ever. Only a new format version gets a new golden folder; it is written by

    .venv/bin/python -m tests.quantizer.test_files
"""

import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import clvq_lens
from clvq_lens.config import CLVQConfig, FitConfig
from clvq_lens.errors import (
    FileFormatError,
    NewerFormatError,
    NonFiniteError,
    NotFittedError,
    PathError,
    PathTakenError,
    TerminatedError,
)
from clvq_lens.quantizer import files
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.quantizer.encoders import PredictiveEncoder, sae_options
from clvq_lens.quantizer.files import FORMAT_VERSION, load, save
from clvq_lens.quantizer.origin import Origin
from clvq_lens.quantizer.sae_prediction import SAEOptions, SAEPrediction
from clvq_lens.quantizer.saved import Saved

GOLDEN = Path(__file__).parent / "golden"
SAE = SAEOptions(n_features=7, n_active=2, d_output=3, normalization="layer_norm", restores=True)
KINDS = [
    pytest.param({"decoder": "transformer"}, id="transformer"),
    pytest.param({"decoder": "transformer", "decoder_memory": "encoder"}, id="with-memory"),
    pytest.param({"decoder": "mlp"}, id="mlp"),
    pytest.param({"decoder": "table"}, id="table"),
    pytest.param({"encoder": "predictive"}, id="predictive"),
    pytest.param({"encoder": "predictive", "sae": SAE}, id="with-an-SAE"),
]
SAMPLES = {str: "tiny", int: 2, bool: True, dict[str, list[float]]: {"W_E": [0.5, -1.0]}}
ORIGIN = Origin(**{field.name: SAMPLES[field.type] for field in fields(Origin)})


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make(seed: int = 0, d_target: int = 4, **options: Any) -> CrossLayerQuantizer:
    """A tiny fitted quantizer with random weights everywhere."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {"n_codes": 4, "top_k": 2, "decoder_layers": 1, "d_decoder_mlp": 4, "d_encoder_mlp": 4}
    options = {"encoder": "residual", **sizes, **options}
    sae = options.pop("sae", None)
    config = CLVQConfig(**options)
    quantizer = CrossLayerQuantizer(config, 4, d_target, generator=generator, sae=sae)
    source, target = random(40, 4, seed=seed + 1), random(40, d_target, seed=seed + 2)
    if isinstance(quantizer.encoder, SAEPrediction):
        for number, name in enumerate(("weights", "bias", "directions", "center"), start=20):
            buffer = quantizer.encoder.get_buffer(name)
            buffer.copy_(random(*buffer.shape, seed=number))
    if isinstance(quantizer.encoder, PredictiveEncoder | SAEPrediction):
        quantizer.encoder.start_(source, target)
    quantizer.initialize_(source, target, generator=generator)
    with torch.no_grad():
        for parameter in quantizer.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    usage = torch.tensor([10, 9, 8, 0])
    sums = random(4, 4, seed=3).double(), random(4, d_target, seed=4).double()
    source_sums = random(4, seed=5).double().expand(4, 4) / 4
    quantizer.record_(usage, source_sums, *sums)
    quantizer.measure_norms_(source, target)
    quantizer.origin, quantizer.fit_config = ORIGIN, FitConfig(n_tokens=40)
    return quantizer


def make_golden() -> None:
    """Writes the golden folder of this version."""
    # At a width of 8 another default number of heads would give other values, not other shapes.
    quantizer, source = make(d_target=8), random(2, 5, 4, seed=9)
    save(quantizer, GOLDEN)
    found = {"codes": quantizer.assign(source), "recon": quantizer(source).detach()}
    record = {"source": source, **found}
    text = json.dumps({name: value.tolist() for name, value in record.items()}, indent=1)
    (GOLDEN / "expected.json").write_text(text + "\n")


def weights_of(folder: Path) -> Path:
    (path,) = folder.glob("weights-*.safetensors")
    return path


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def edit_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def edit_weights(
    folder: Path,
    change: Callable[[dict[str, Tensor]], object] = lambda tensors: None,
    change_copy: Callable[[dict[str, Any]], object] = lambda config: None,
) -> None:
    """Changes tensors, or the copy of config.json, and the hash too, as with intent."""
    path = weights_of(folder)
    with safe_open(path, framework="pt") as file:
        copied = json.loads(file.metadata()["clvq_lens"])
    tensors = load_tensors(path.read_bytes())
    change(tensors)
    change_copy(copied)
    path.write_bytes(save_tensors(tensors, metadata={"clvq_lens": json.dumps(copied)}))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    edit_config(folder, lambda config: config.update(sha256=digest))


def edit_everywhere(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes config.json, its copy and the hash, so that nothing but the tensors can tell."""
    edit_weights(folder, change_copy=change)
    edit_config(folder, change)


pytestmark = pytest.mark.usefixtures("as_for_a_user")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save(make(), tmp_path / "saved")


# ---- round trips -------------------------------------------------------------------------------


@pytest.mark.parametrize("options", KINDS)
def test_a_loaded_quantizer_has_the_same_bits(options: dict[str, Any], tmp_path: Path):
    quantizer, source = make(**options), random(2, 5, 4, seed=9)
    again = load(save(quantizer, tmp_path))
    assert again.config == quantizer.config
    assert again.origin == ORIGIN
    assert again.fit_config == FitConfig(n_tokens=40)
    assert not again.training
    assert again.fitted
    one, other = quantizer.state_dict(), again.state_dict()
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype, name
        assert torch.equal(tensor, other[name]), name
    assert torch.equal(again(source), quantizer(source))
    assert torch.equal(again.assign(source), quantizer.assign(source))


@pytest.mark.parametrize("causal", [True, False])
def test_widths_direction_and_a_missing_origin_come_back(causal: bool, tmp_path: Path):
    quantizer = CrossLayerQuantizer(CLVQConfig(n_codes=3, encoder="residual"), 4, 6, causal=causal)
    quantizer.record_(torch.ones(3).long(), random(3, 4), random(3, 4), random(3, 6))
    again = load(save(quantizer, tmp_path))
    assert (again.d_source, again.d_target, again.causal) == (4, 6, causal)
    assert again.origin is None


def test_a_folder_is_made_where_needed_and_may_be_a_string(tmp_path: Path):
    folder = save(make(), str(tmp_path / "runs" / "gpt2-4-8"))
    assert folder == tmp_path / "runs" / "gpt2-4-8"
    assert load(str(folder)).fitted


def test_a_folder_holds_one_readable_config_and_one_file_of_weights(saved: Path):
    weights = weights_of(saved)
    assert files_in(saved) == ["config.json", weights.name]
    config = json.loads((saved / "config.json").read_text())
    assert (config["format"], config["format_version"]) == ("clvq_lens", FORMAT_VERSION)
    assert config["library_version"] == clvq_lens.__version__
    assert config["quantizer"]["n_codes"] == 4
    assert config["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_saving_twice_leaves_one_file_of_weights(tmp_path: Path):
    save(make(seed=0), tmp_path)
    first = weights_of(tmp_path)
    save(make(seed=0), tmp_path)
    assert weights_of(tmp_path) == first  # the same quantizer has the same bytes
    save(make(seed=1), tmp_path)
    assert weights_of(tmp_path) != first
    expected = make(seed=1).state_dict()["codebook.vectors"]
    assert torch.equal(load(tmp_path).codebook.vectors, expected)


@pytest.mark.parametrize("name", ["notes.txt", "weights-best.safetensors"])
def test_saving_does_not_touch_other_files_in_the_folder(tmp_path: Path, name: str):
    (tmp_path / name).write_text("mine")
    save(make(), tmp_path)
    save(make(seed=1), tmp_path)
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, "644"), (0o077, "600"), (0o002, "664")])
def test_files_have_the_permissions_that_the_umask_gives(tmp_path: Path, umask: int, mode: str):
    before = os.umask(umask)
    try:
        save(make(), tmp_path / "saved")
    finally:
        os.umask(before)
    assert {oct(path.stat().st_mode)[-3:] for path in (tmp_path / "saved").iterdir()} == {mode}


def test_loading_leaves_the_global_generator_alone(saved: Path):
    state = torch.get_rng_state()
    load(saved)
    assert torch.equal(torch.get_rng_state(), state)


# ---- refusing to save --------------------------------------------------------------------------


def test_an_unfitted_quantizer_is_not_saved(tmp_path: Path):
    with pytest.raises(NotFittedError, match="has not been fitted"):
        save(CrossLayerQuantizer(CLVQConfig(n_codes=4, top_k=2), 4, 4), tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_a_file_in_place_of_the_folder_is_not_overwritten(tmp_path: Path):
    (tmp_path / "saved").write_text("mine")
    with pytest.raises(
        PathTakenError, match=r"saved exists and is not a folder\. Pass the path of a"
    ):
        save(make(), tmp_path / "saved")
    assert (tmp_path / "saved").read_text() == "mine"


@pytest.mark.parametrize("n_done", [0, 1])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_interrupted_save_leaves_the_previous_one(
    saved: Path, monkeypatch: pytest.MonkeyPatch, n_done: int, error: type[BaseException]
):
    replace, calls = os.replace, []

    def fail(old: str, new: Path) -> None:
        calls.append(new)
        if len(calls) > n_done:
            raise error("no space left")
        replace(old, new)

    before = files_in(saved)
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(error, match="no space left"):
        save(make(seed=1), saved)
    monkeypatch.undo()
    assert torch.equal(load(saved).codebook.vectors, make(seed=0).codebook.vectors)
    assert not [name for name in files_in(saved) if name.startswith(".")]
    assert len(files_in(saved)) == len(before) + n_done
    save(make(seed=1), saved)
    assert len(files_in(saved)) == 2
    assert torch.equal(load(saved).codebook.vectors, make(seed=1).codebook.vectors)


@pytest.mark.parametrize("name", ["link", "pipe"])
def test_a_config_that_is_no_file_is_not_replaced(tmp_path: Path, name: str):
    config = tmp_path / "config.json"
    if name == "pipe":
        os.mkfifo(config)
    else:
        config.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(PathError, match=r"would replace"):
        save(make(), tmp_path)
    assert files_in(tmp_path) == ["config.json"]


def test_a_full_disk_is_our_error_and_leaves_the_previous_save(
    saved: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(PathError, match=r"No space left on device\. Free some space, or pass a"):
        save(make(seed=1), saved)
    assert len(files_in(saved)) == 2
    assert torch.equal(load(saved).codebook.vectors, make(seed=0).codebook.vectors)


# ---- refusing to load: config.json -------------------------------------------------------------


def test_a_folder_without_a_config_is_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"No config\.json in .*Pass the folder"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"No config\.json in "):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe\x00", b"{'format': 'clvq_lens'}"])
def test_a_config_that_is_no_json_is_refused(saved: Path, content: bytes):
    (saved / "config.json").write_bytes(content)
    with pytest.raises(FileFormatError, match=r"config\.json is damaged: .*Save the quantizer"):
        load(saved)


@pytest.mark.parametrize("content", ["{}", "[]", "3", "null", '{"architectures": ["GPT2"]}'])
def test_the_json_of_somebody_else_is_refused(saved: Path, content: str):
    (saved / "config.json").write_text(content)
    with pytest.raises(FileFormatError, match="was not written by clvq_lens"):
        load(saved)


def test_a_newer_format_asks_for_an_upgrade(saved: Path):
    edit_config(saved, lambda config: config.update(format_version=99, new_field=1))
    with pytest.raises(
        NewerFormatError, match=rf"version 99; .* reads up to {FORMAT_VERSION}\. Upgrade"
    ):
        load(saved)


@pytest.mark.parametrize("version", [0, 3, None, "1", True, 4.0])
def test_an_unknown_format_version_is_refused(saved: Path, version: object):
    edit_config(saved, lambda config: config.update(format_version=version))
    with pytest.raises(FileFormatError, match=f"format version {version!r}, missing fields"):
        load(saved)


def test_an_unknown_codebook_is_refused(saved: Path):
    edit_config(saved, lambda config: config.update(codebook="pages"))
    with pytest.raises(FileFormatError, match="impossible quantizer: its codebook is 'pages'"):
        load(saved)


def test_a_codebook_of_another_kind_than_the_weights_is_refused(saved: Path):
    edit_everywhere(saved, lambda config: config.update(codebook="features"))
    with pytest.raises(FileFormatError, match=r"codebook\.weights"):
        load(saved)


@pytest.fixture
def with_sae(tmp_path: Path) -> Path:
    return save(make(encoder="predictive", sae=SAE), tmp_path / "with_sae")


def test_an_sae_is_saved_where_there_is_one_and_nowhere_else(saved: Path, with_sae: Path):
    assert "sae" not in json.loads((saved / "config.json").read_text())
    config = json.loads((with_sae / "config.json").read_text())
    assert config["sae"] == asdict(SAE)
    assert sae_options(load(with_sae).encoder) == SAE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_active": 8}, "impossible quantizer: n_active is 8, and the SAE has 7 features"),
        ({"n_features": "7"}, "impossible quantizer: n_features is '7'"),
        ({"d_output": 0}, "impossible quantizer: d_output is 0"),
        ({"restores": None}, "impossible quantizer: restores is None"),
        ({"normalization": "batch"}, "impossible quantizer: normalization is 'batch'"),
        ({"mood": "fine"}, r"impossible quantizer: .*unexpected keyword argument 'mood'"),
        ({"n_features": 8}, r"encoder\.bias is F32 \[7\], expected F32 \[8\]"),
        ({"n_features": 10**12}, r"encoder\.bias is F32 \[7\], expected F32 \[10+\]"),
        ({"n_features": 10**30}, "impossible quantizer: n_features is 10+;"),
        ({"d_output": 10**12}, r"encoder\.directions is F32 \[7, 3\]"),
    ],
)
def test_impossible_options_of_an_sae_are_refused(
    with_sae: Path, options: dict[str, Any], message: str
):
    edit_everywhere(with_sae, lambda config: config["sae"].update(options))
    with pytest.raises(FileFormatError, match=message):
        load_small(with_sae)


def test_an_sae_that_the_weights_lack_or_have_is_noticed(saved: Path, with_sae: Path):
    edit_everywhere(with_sae, lambda config: config.pop("sae"))
    with pytest.raises(FileFormatError, match=r"unknown encoder\.directions|missing encoder\."):
        load(with_sae)
    edit_everywhere(saved, lambda config: config.update(sae=asdict(SAE)))
    with pytest.raises(FileFormatError, match=r"impossible quantizer: encoder is 'residual', and"):
        load(saved)
    edit_config(saved, lambda config: config.update(sae=None))
    with pytest.raises(FileFormatError, match="'sae' is not an object"):
        load(saved)


def test_an_edited_sae_is_named(with_sae: Path):
    edit_config(with_sae, lambda config: config["sae"].update(n_active=1))
    with pytest.raises(FileFormatError, match=r"sae\.n_active is 1, was saved as 2"):
        load(with_sae)
    save(make(encoder="predictive", sae=SAE), with_sae)
    edit_config(with_sae, lambda config: config.pop("sae"))
    with pytest.raises(FileFormatError, match=r"was edited.*sae is None, was saved as"):
        load(with_sae)


def test_a_missing_field_is_named(saved: Path):
    edit_config(saved, lambda config: config.pop("d_source"))
    with pytest.raises(
        FileFormatError, match=r"missing fields \['d_source'\], unknown fields \[\]"
    ):
        load(saved)


def test_an_unknown_field_is_named(saved: Path):
    edit_config(saved, lambda config: config.update(mood="fine"))
    with pytest.raises(FileFormatError, match=r"missing fields \[\], unknown fields \['mood'\]"):
        load(saved)


@pytest.mark.parametrize(
    ("field", "value", "kind"),
    [
        ("weights", 3, "str"),
        ("sha256", None, "str"),
        ("d_source", 4.0, "int"),
        ("d_target", True, "int"),
        ("causal", 1, "bool"),
        ("codebook", ["features"], "str"),
        ("quantizer", [], "dict"),
    ],
)
def test_a_field_of_the_wrong_type_is_named(saved: Path, field: str, value: object, kind: str):
    edit_config(saved, lambda config: config.update({field: value}))
    with pytest.raises(FileFormatError) as error:
        load(saved)
    assert f"is damaged: {field!r} is {value!r}, expected {kind}." in str(error.value)


def test_an_origin_that_is_no_object_is_refused(saved: Path):
    edit_config(saved, lambda config: config.update(origin="gpt2"))
    with pytest.raises(FileFormatError, match="'origin' is not an object"):
        load(saved)


def test_a_damaged_origin_is_refused(saved: Path):
    edit_config(saved, lambda config: config["origin"].pop("dtype"))
    with pytest.raises(FileFormatError, match="The saved origin has the fields"):
        load(saved)


def test_a_fit_that_is_no_object_or_impossible_is_refused(saved: Path):
    edit_config(saved, lambda config: config.update(fit=3))
    with pytest.raises(FileFormatError, match="'fit' is not an object"):
        load(saved)
    edit_config(saved, lambda config: config.update(fit={"n_tokens": -1}))
    with pytest.raises(FileFormatError, match="impossible quantizer: n_tokens is -1"):
        load(saved)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 99}, "impossible quantizer: top_k is 99, but there are only 4 codes"),
        ({"n_codes": "4"}, "impossible quantizer: n_codes is '4'"),
        ({"n_code": 4}, r"does not know the options \['n_code'\]"),
        ({"decoder": "lstm"}, "impossible quantizer: decoder is 'lstm'"),
        ({"decoder_heads": 3}, "impossible quantizer: decoder_heads is 3, which does not divide"),
        ({"self": 3}, r"does not know the options \['self'\]"),
    ],
)
def test_impossible_options_are_refused(saved: Path, options: dict[str, Any], message: str):
    edit_everywhere(saved, lambda config: config["quantizer"].update(options))
    with pytest.raises(FileFormatError, match=message):
        load(saved)


@pytest.mark.parametrize("field", ["d_source", "d_target"])
@pytest.mark.parametrize("width", [-4, 0])
def test_an_impossible_width_is_refused(saved: Path, field: str, width: int):
    edit_config(saved, lambda config: config.update({field: width}))
    with pytest.raises(FileFormatError, match=f"impossible quantizer: {field} is {width}, and no"):
        load(saved)


@pytest.mark.parametrize(
    "name",
    [
        *("../weights.safetensors", "/etc/passwd", "sub/w.safetensors", ".", "..", ""),
        *("config.json", "weights-0.safetensors", "..\\weights-0123456789ab.safetensors"),
        *("../weights-0123456789ab.safetensors", "weights-0123456789ab.safetensors\n"),
    ],
)
def test_weights_that_save_would_not_name_so_are_refused(saved: Path, name: str):
    edit_config(saved, lambda config: config.update(weights=name))
    with pytest.raises(FileFormatError, match=r"expected one beside it, named .* Do not trust it"):
        load(saved)


def test_a_config_too_large_to_be_ours_is_not_read(saved: Path):
    with (saved / "config.json").open("a") as file:
        file.write(" " * 2**20)
    with pytest.raises(FileFormatError, match="was not written by clvq_lens"):
        load(saved)


# ---- refusing to load: the weights -------------------------------------------------------------


def test_missing_weights_are_refused(saved: Path):
    weights_of(saved).unlink()
    with pytest.raises(FileFormatError, match=r"is missing\. Copy the whole folder"):
        load(saved)


@pytest.mark.parametrize("place", [0, 100, -1])
def test_one_changed_byte_is_noticed(saved: Path, place: int):
    path = weights_of(saved)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=r"is damaged: its SHA-256 is .*config\.json says"):
        load(saved)


@pytest.mark.parametrize("n_bytes", [0, 7, 500])
def test_truncated_weights_are_noticed(saved: Path, n_bytes: int):
    path = weights_of(saved)
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(FileFormatError, match=r"is damaged: its SHA-256 is"):
        load(saved)


@pytest.mark.parametrize("content", [b"", b"\x80\x04N.", b"\xff" * 100])
def test_what_is_no_safetensors_file_is_refused(saved: Path, content: bytes):
    weights_of(saved).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    edit_config(saved, lambda config: config.update(sha256=digest))
    with pytest.raises(FileFormatError, match="is not a safetensors file"):
        load(saved)


def test_a_missing_tensor_is_named(saved: Path):
    edit_weights(saved, lambda tensors: tensors.pop("codebook.vectors"))
    with pytest.raises(
        FileFormatError, match=r"do not fit its config.json: missing codebook\.vectors\."
    ):
        load(saved)


def test_an_unknown_tensor_is_named(saved: Path):
    edit_weights(saved, lambda tensors: tensors.update(surprise=torch.zeros(2)))
    with pytest.raises(FileFormatError, match=r"unknown surprise\. The files belong to different"):
        load(saved)


def test_a_tensor_of_another_shape_is_named(saved: Path):
    edit_weights(saved, lambda tensors: tensors.update(mean_target=torch.zeros(4, 3)))
    message = r"mean_target is F32 \[4, 3\], expected F32 \[4, 4\]"
    with pytest.raises(FileFormatError, match=message):
        load(saved)


def test_a_tensor_of_another_type_is_named(saved: Path):
    edit_weights(saved, lambda tensors: tensors.update(usage=torch.ones(4)))
    with pytest.raises(FileFormatError, match=r"usage is F32 \[4\], expected I64 \[4\]"):
        load(saved)


def test_weights_of_another_width_are_refused(saved: Path):
    edit_everywhere(saved, lambda config: config.update(d_target=8))
    with pytest.raises(FileFormatError, match=r"mean_target is .*\[4, 4\], expected .*\[4, 8\]"):
        load(saved)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bool, torch.float64])
def test_a_type_that_no_quantizer_has_is_named(saved: Path, dtype: torch.dtype):
    edit_weights(saved, lambda tensors: tensors.update(mean_encoded=torch.zeros(4, 4, dtype=dtype)))
    with pytest.raises(FileFormatError, match=r"mean_encoded is \w+ \[4, 4\], expected F32"):
        load(saved)


def test_of_many_differences_a_few_are_listed(saved: Path):
    extra = {f"extra.{n}": torch.zeros(()) for n in range(1000)}
    edit_weights(saved, lambda tensors: tensors.update(extra))
    with pytest.raises(FileFormatError, match=r"unknown extra\.0; .*; 992 more\. The files"):
        load(saved)


# ---- refusing to load: sizes that are not those of the file ------------------------------------


def load_small(folder: Path) -> None:
    """Loads where an allocation of a gigabyte would fail."""
    limit = 2**30

    class Limited(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor) and out.device.type != "meta":
                assert out.numel() * out.element_size() < limit, func
            return out

    with Limited():
        load(folder)


@pytest.mark.parametrize("kind", [{"decoder": "mlp"}, {"decoder": "transformer"}])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_codes": 10**12}, r"vectors is F32 \[4, 4\], expected F32 \[1000000000000, 4\]"),
        ({"n_codes": 10**30}, "holds an impossible quantizer: n_codes is 10+;"),
        ({"decoder_layers": 1000}, r"have 1 decoder blocks, and .* decoder_layers: 1000\."),
        ({"d_decoder_mlp": 10**12}, r"mlp\.0\.weight is F32 \[4, 4\]|0\.weight is F32"),
        ({"d_decoder_mlp": 10**30}, "holds an impossible quantizer"),
    ],
)
def test_absurd_options_allocate_nothing(
    kind: dict[str, Any], options: dict[str, Any], message: str, tmp_path: Path
):
    saved = save(make(**kind), tmp_path / "saved")
    edit_everywhere(saved, lambda config: config["quantizer"].update(options))
    with pytest.raises(FileFormatError, match=message):
        load_small(saved)


@pytest.mark.parametrize("field", ["d_source", "d_target"])
@pytest.mark.parametrize("width", [10**12, 10**30])
def test_absurd_widths_allocate_nothing(saved: Path, field: str, width: int):
    edit_everywhere(saved, lambda config: config.update({field: width}))
    with pytest.raises(FileFormatError, match=rf"is F32 \[4, 4\], expected F32 \[4, {width}\]"):
        load_small(saved)


def test_nothing_is_built_before_its_shapes_are_known(saved: Path, monkeypatch: pytest.MonkeyPatch):
    built = []

    class Watched(CrossLayerQuantizer):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            built.append(self.device.type)

    monkeypatch.setattr("clvq_lens.quantizer.saved.CrossLayerQuantizer", Watched)
    load(saved)
    assert built == ["meta", "cpu"]
    built.clear()
    edit_weights(saved, lambda tensors: tensors.pop("codebook.ema_sums"))
    with pytest.raises(FileFormatError, match=r"missing codebook\.ema_sums"):
        load(saved)
    assert built == ["meta"]


def test_being_told_to_end_is_not_taken_for_a_damaged_file(
    saved: Path, monkeypatch: pytest.MonkeyPatch
):
    """SIGTERM is an error that is raised wherever the process is."""

    def told_to_end(self: Saved) -> None:
        raise TerminatedError("Told to end (SIGTERM).")

    monkeypatch.setattr(Saved, "build", told_to_end)
    with pytest.raises(TerminatedError, match=r"^Told to end \(SIGTERM\)\.$"):
        load(saved)


# ---- refusing to load: what was edited or is impossible ----------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config.update(causal=False), "causal is False, was saved as True"),
        (
            lambda config: config["quantizer"].update(decoder_heads=4),
            r"quantizer\.decoder_heads is 4, was saved as 2",
        ),
        (lambda config: config["quantizer"].update(top_k=1), r"top_k is 1, was saved as 2"),
        (lambda config: config.update(library_version="9"), "library_version is '9', was saved as"),
        (
            lambda config: config["origin"].update(source="blocks.0.hook_resid_post"),
            r"origin\.source is 'blocks\.0\.hook_resid_post', was saved as 'tiny'",
        ),
        (lambda config: config.update(origin=None), r"origin is None, was saved as {"),
        (lambda config: config.update(d_target=8), "d_target is 8, was saved as 4"),
    ],
)
def test_an_edited_config_is_refused_and_the_field_named(
    saved: Path, change: Callable[[dict[str, Any]], object], message: str
):
    edit_config(saved, change)
    with pytest.raises(FileFormatError, match=rf"was edited, or belongs to .*{message}"):
        load(saved)


@pytest.mark.parametrize("copied", [None, "{", "[]", "3", "{}"])
def test_weights_without_a_copy_of_the_config_are_refused(saved: Path, copied: str | None):
    path = weights_of(saved)
    metadata = None if copied is None else {"clvq_lens": copied}
    path.write_bytes(save_tensors(load_tensors(path.read_bytes()), metadata=metadata))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    edit_config(saved, lambda config: config.update(sha256=digest))
    with pytest.raises(FileFormatError, match=r"was edited, or belongs to another save"):
        load(saved)


IMPOSSIBLE = [
    ("codebook.vectors", torch.nan, r"codebook\.vectors holds NaN"),
    ("encoder.norm.weight", torch.inf, r"encoder\.norm\.weight holds infinity"),
    ("usage", -1, "usage holds counts below 0"),
    ("codebook.n_revived", -3, r"codebook\.n_revived holds counts below 0"),
]


@pytest.mark.parametrize(("name", "value", "message"), IMPOSSIBLE)
def test_values_that_no_fit_leaves_are_refused(saved: Path, name: str, value: float, message: str):
    edit_weights(saved, lambda tensors: tensors[name].view(-1)[:1].fill_(value))
    with pytest.raises(FileFormatError, match=rf"holds an impossible quantizer: {message}"):
        load(saved)


def test_a_quantizer_that_saw_no_token_is_refused(saved: Path):
    edit_weights(saved, lambda tensors: tensors["usage"].zero_())
    with pytest.raises(FileFormatError, match="usage is 0 for every code"):
        load(saved)


@pytest.mark.parametrize(("name", "value", "message"), IMPOSSIBLE)
def test_values_that_no_fit_leaves_are_not_saved(
    tmp_path: Path, name: str, value: float, message: str
):
    quantizer = make()
    quantizer.state_dict()[name].view(-1)[:1].fill_(value)
    with pytest.raises(NonFiniteError, match=rf"cannot be saved: {message}"):
        save(quantizer, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


# ---- several at once, and what was killed ------------------------------------------------------


def test_saves_at_once_leave_one_of_the_quantizers_and_loads_meanwhile_get_one(tmp_path: Path):
    quantizers = [make(seed) for seed in range(3)]
    expected = {str(quantizer.codebook.vectors.tolist()) for quantizer in quantizers}
    save(quantizers[0], tmp_path)
    seen = []

    def save_often(quantizer: CrossLayerQuantizer) -> None:
        for _ in range(8):
            save(quantizer, tmp_path)

    with ThreadPoolExecutor() as pool:
        saves = [pool.submit(save_often, quantizer) for quantizer in quantizers]
        while not all(each.done() for each in saves):
            seen.append(str(load(tmp_path).codebook.vectors.tolist()))
        for each in saves:
            each.result()
    assert expected >= {*seen, str(load(tmp_path).codebook.vectors.tolist())}
    assert len(files_in(tmp_path)) == 2


@pytest.mark.slow
def test_processes_that_save_at_once_leave_one_of_the_quantizers(tmp_path: Path):
    program = (
        "import sys; from tests.quantizer.test_files import make, save\n"
        "quantizer = make(int(sys.argv[1]))\n"
        "for _ in range(25): save(quantizer, sys.argv[2])"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program, str(seed), str(tmp_path)])
        for seed in range(2)
    ]
    assert [process.wait() for process in processes] == [0, 0]
    assert load(tmp_path).fitted
    assert len(files_in(tmp_path)) == 2


def test_a_load_whose_weights_a_save_has_deleted_begins_anew(
    saved: Path, monkeypatch: pytest.MonkeyPatch
):
    read, n_reads = files.read_config, 0

    def read_while_somebody_saves(path: Path) -> files.Saved:
        nonlocal n_reads
        n_reads += 1
        found = read(path)
        if n_reads == 1:
            save(make(seed=1), saved)
        return found

    monkeypatch.setattr(files, "read_config", read_while_somebody_saves)
    assert torch.equal(load(saved).codebook.vectors, make(seed=1).codebook.vectors)


def test_a_save_removes_what_killed_saves_left(saved: Path):
    left = [".clvq_lens.tmp", ".clvq_lens.lock", "weights-0123456789ab.safetensors"]
    for name in left:
        (saved / name).write_text("half of it")
    save(make(seed=1), saved)
    assert files_in(saved) == ["config.json", weights_of(saved).name]
    assert torch.equal(load(saved).codebook.vectors, make(seed=1).codebook.vectors)


# ---- golden file ------------------------------------------------------------------------------


def test_a_golden_file_still_loads_and_computes_the_same():
    quantizer = load(GOLDEN)
    expected = json.loads((GOLDEN / "expected.json").read_text())
    source = torch.tensor(expected["source"])
    assert quantizer.assign(source).tolist() == expected["codes"]
    assert len({code for row in expected["codes"] for code in row}) > 1
    recon = torch.tensor(expected["recon"])
    torch.testing.assert_close(quantizer(source).detach(), recon, rtol=1e-5, atol=1e-5)
    assert quantizer.origin == ORIGIN
    assert quantizer.fit_config == FitConfig(n_tokens=40, batch_tokens=1_024, long_texts="split")
    assert quantizer.usage.tolist() == [10, 9, 8, 0]
    assert 0 < quantizer.max_source_norm < torch.inf


def test_a_config_of_another_program_is_not_overwritten(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(PathTakenError, match=r"was not written by clvq_lens, .* folder of its own"):
        save(make(), tmp_path)
    assert (tmp_path / "config.json").read_text() == '{"model_type": "gpt2"}'


def test_a_saved_config_leaves_nothing_to_defaults_that_may_change(tmp_path):
    save(make(), tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())["quantizer"]
    assert None not in saved.values()
    edit_config(tmp_path, lambda config: config["quantizer"].pop("decoder_heads"))
    with pytest.raises(FileFormatError, match=r"does not know the options \['decoder_heads'\]"):
        load(tmp_path)


if __name__ == "__main__":
    make_golden()
