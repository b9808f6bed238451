"""What has to be the same for long work to go on: model, quantizer and data, in digests."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import xxhash

from clvq_lens.data.document import Document
from clvq_lens.data.documents import Data
from clvq_lens.data.store.stored_activations import StoredActivations
from clvq_lens.host.attachment import Attachment
from clvq_lens.host.host import Host
from clvq_lens.quantizer.encoders import sae_fields
from clvq_lens.training.checkpoint import checksum_of


def model_identity(host: Host) -> dict[str, Any]:
    """A model, with its weights up to the last layer."""
    identity = asdict(host.identity([host.resolve(host.n_layers - 1)]))
    # A digest, so that a message that names it stays short.
    identity["weights"] = xxhash.xxh3_128_hexdigest(repr(identity["weights"]).encode())
    return identity


def quantizer_identity(attachment: Attachment) -> dict[str, Any]:
    """A fitted quantizer: its options, its weights and where it is."""
    quantizer = attachment.quantizer
    return {
        **sae_fields(quantizer.encoder),
        "options": asdict(quantizer.config),
        "weights": checksum_of(quantizer.state_dict()),
        "source": attachment.source,
        "target": attachment.target,
    }


def data_digest(data: Data, documents: Iterable[Document]) -> str:
    """A digest of some data.

    Args:
        data: What a user passed.
        documents: The documents in it, which are read unless the data are a store.
    """
    return data.digest if isinstance(data, StoredActivations) else documents_digest(documents)


def labels_digest(token_labels: Iterable[Iterable[str]]) -> str:
    """A digest of known labels of tokens."""
    digest = xxhash.xxh3_128()
    for labels in token_labels:
        digest.update(json.dumps(list(labels)).encode())
    return digest.hexdigest()


def documents_digest(documents: Iterable[Document]) -> str:
    """A digest of documents in their order, white space included."""
    digest = xxhash.xxh3_128()
    for document in documents:
        digest.update(f"{document.number} {document.start} ".encode() + document.raw)
        if document.stored is not None:  # the tokens of vectors may be unknown, and all the same
            digest.update(document.stored.fingerprint.to_bytes(8, "big"))
    return digest.hexdigest()
