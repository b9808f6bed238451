"""Activations kept on disk, so that fits of many methods and seeds run the model once.

    with kept_activations(model, folder):
        lens.fit(texts)  # runs the model for what the folder has not seen, and reads the rest
        lens.evaluate(held_out)  # the pass of the model as it is begins after its last block

A sequence is known by all of its tokens. What passes a hook point at them depends on nothing else
in the batch: sequences are padded on the right, where a causal model does not look and an encoder
has a mask. So activations are those of the model up to rounding, which depends on the batch.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from clvq_lens.data.documents import Data, open_documents
from clvq_lens.data.tokens import token_batches
from clvq_lens.host.host import Host
from clvq_lens.host.last_tokens import is_untouched
from clvq_lens.host.weights import sample_weights
from clvq_lens.quantizer.fingerprint import compare
from clvq_lens.writing import make_folder, write_atomically

_TOKENS, _LENGTHS = "tokens", "lengths"  # in a file, beside the hook points
_read_by_model = Host.activations


class _Place(NamedTuple):
    """Where the activations of a sequence at one hook point are."""

    file: str
    start: int
    stop: int


@contextmanager
def kept_activations(model: Any, folder: Path) -> Iterator["KeptActivations"]:
    """While open, fits and evaluations run a model only for sequences that a folder lacks.

    What the model reads is added to the folder at once: each hook point that is asked for, and
    for an evaluation that needs logits also the residual stream after the last block. Nothing is
    taken from the folder, or added to it, while a hook or an open block may change what the model
    does.

    Args:
        model: The model, whose weights stay as they are.
        folder: Folder for the activations of this model; created if needed.

    Raises:
        ValueError: If the folder holds activations of another model, or a batch is not padded on
            the right.
    """
    kept = KeptActivations(Host(model), folder)

    def is_kept(host: Host) -> bool:
        return host.model is kept.host.model and is_untouched(host)

    activations_before = Host.activations

    def activations(
        host: Host, tokens: Tensor, attended: Tensor, names: Sequence[str]
    ) -> dict[str, Tensor]:
        if is_kept(host):
            return kept.activations(tokens, attended, names)
        return activations_before(host, tokens, attended, names)

    # On the class: each quantizer that is attached meanwhile has a host of its own.
    Host.activations = activations
    try:
        yield kept
    finally:
        Host.activations = activations_before


def read_ahead(model: Any, data: Data, points: Sequence[int | str]) -> None:
    """Reads all documents, so that `kept_activations`, which is open, has them for every fit.

    Args:
        model: The model.
        data: Documents, as for a fit; none of them longer than the context.
        points: Layers, or names of hook points.
    """
    host = Host(model)
    names = [host.resolve(point) for point in points]
    batches = token_batches(host, open_documents(data), long_texts="error")
    for batch in tqdm(batches, desc="read", unit="batch", mininterval=5):
        host.activations(*batch.on(host.device), names)


class KeptActivations:
    """Activations of one model in a folder.

    Each pass of the model leaves one file, which is written in one step: a process that is killed
    loses the pass that was running. Several processes may fill one folder.

    Args:
        host: The model.
        folder: Folder for the activations; created if needed.

    Raises:
        ValueError: If the folder holds activations of another model.
    """

    def __init__(self, host: Host, folder: Path) -> None:
        self.host, self.folder = host, make_folder(folder)
        self.n_run = 0
        """Sequences that the model was run on."""
        self._places: dict[tuple[str, bytes], _Place] = {}  # by hook point and tokens
        self._files: set[str] = set()
        self._check_model()
        self._find_files()

    def activations(
        self, tokens: Int[Tensor, "b pos"], attended: Bool[Tensor, "b pos"], names: Sequence[str]
    ) -> dict[str, Float[Tensor, "b pos d"]]:
        """What passes the named hook points, from the folder or else the model; 0 on padding.

        Raises:
            ValueError: If a sequence is not padded on the right.
        """
        sequences = _sequences(tokens, attended)
        self._run_missing(sequences, names)
        keys = list(map(_key, sequences))
        of_point: dict[str, Tensor] = {}
        for name in names:
            values = self._values(name, keys, n_positions=tokens.shape[1])
            of_point[name] = values.to(self.host.device_of(name))
        return of_point

    # ---- from the folder -----------------------------------------------------------------------

    def _find_files(self) -> None:
        """Learns what is in files that this object or another process has added."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path.name in self._files:
                continue
            with safe_open(path, "pt") as file:
                tokens, lengths = file.get_tensor(_TOKENS), file.get_tensor(_LENGTHS)
                names = set(file.keys()) - {_TOKENS, _LENGTHS}
            start = 0
            for sequence in tokens.split(lengths.tolist()):
                place = _Place(path.name, start, start + len(sequence))
                for name in names:
                    # The first one stays, so that a process reads the same bits each time.
                    self._places.setdefault((name, _key(sequence)), place)
                start = place.stop
            self._files.add(path.name)

    def _values(
        self, name: str, keys: list[bytes], *, n_positions: int
    ) -> Float[Tensor, "b pos d"]:
        """The activations of sequences at a hook point, side by side and padded on the right."""
        rows_of_file: dict[str, list[int]] = defaultdict(list)
        for row, key in enumerate(keys):
            rows_of_file[self._places[name, key].file].append(row)
        of_row: dict[int, Tensor] = {}
        for file_name, rows in rows_of_file.items():
            with safe_open(self.folder / file_name, "pt") as file:
                of_file = file.get_slice(name)  # which reads from disk only what it is asked for
                for row in rows:
                    place = self._places[name, keys[row]]
                    of_row[row] = of_file[place.start : place.stop]
        values = of_row[0].new_zeros(len(keys), n_positions, *of_row[0].shape[1:])
        for row, of_sequence in of_row.items():
            values[row, : len(of_sequence)] = of_sequence
        return values

    # ---- from the model ------------------------------------------------------------------------

    def _run_missing(self, sequences: list[Tensor], names: Sequence[str]) -> None:
        """Runs the model on sequences that the folder lacks at some hook point, and keeps them."""
        keys = list(map(_key, sequences))
        if self._missing(keys, names):
            self._find_files()  # another process may have read them since
        missing = [sequences[row] for row in self._missing(keys, names)]
        if not missing:
            return
        tokens = torch.nn.utils.rnn.pad_sequence(
            missing, batch_first=True, padding_value=self.host.vocabulary.padding
        )
        lengths = torch.tensor(list(map(len, missing)), device=tokens.device)
        attended = torch.arange(tokens.shape[1], device=tokens.device) < lengths.unsqueeze(1)
        of_point = _read_by_model(self.host, tokens, attended, names)
        self.n_run += len(missing)
        parts = {_TOKENS: tokens[attended].cpu(), _LENGTHS: lengths.cpu()}
        for name, values in of_point.items():
            parts[name] = values[attended.to(values.device)].cpu()
        self._keep(parts)

    def _missing(self, keys: list[bytes], names: Sequence[str]) -> list[int]:
        """Rows that the folder lacks at some hook point; of equal ones the first."""
        row_of_key: dict[bytes, int] = {}
        for row, key in enumerate(keys):
            if any((name, key) not in self._places for name in names):
                row_of_key.setdefault(key, row)
        return list(row_of_key.values())

    def _keep(self, parts: dict[str, Tensor]) -> None:
        # Named after what was read: a process that begins again writes over what a kill has left.
        digest = hashlib.sha256(_key(parts[_TOKENS]) + _key(parts[_LENGTHS]))
        digest.update("\n".join(sorted(parts)).encode())
        write_atomically(self.folder / f"{digest.hexdigest()[:32]}.safetensors", save(parts))
        self._find_files()

    def _check_model(self) -> None:
        """Raises `ValueError` unless the folder is new, or was filled by this model."""
        path = self.folder / "model.json"
        mine = {"state": self.host.state, "weights": sample_weights(self.host.model, None)}
        if not path.exists():
            write_atomically(path, json.dumps(mine).encode())
            return
        theirs = json.loads(path.read_text())
        difference = compare(mine["weights"], theirs["weights"])
        if theirs["state"] != mine["state"] or difference is None or not difference.agree:
            raise ValueError(
                f"{self.folder} holds activations of another model ({theirs['state']}; this one "
                f"is {mine['state']}). Sampled weights: {difference}. Pass another folder."
            )


def _sequences(
    tokens: Int[Tensor, "b pos"], attended: Bool[Tensor, "b pos"]
) -> list[Int[Tensor, " n"]]:
    """Sequences without their padding.

    Raises:
        ValueError: If there is padding before a token.
    """
    if (attended[:, 1:] & ~attended[:, :-1]).any():
        raise ValueError(
            "A sequence has padding before a token, where a model may count it as a position. Pad "
            "on the right, or read outside of kept_activations."
        )
    sequences: list[Tensor] = []
    for row, length in zip(tokens, attended.sum(1).tolist(), strict=True):
        sequences.append(row[:length])
    return sequences


def _key(tokens: Int[Tensor, " n"]) -> bytes:
    return tokens.cpu().long().numpy().tobytes()
