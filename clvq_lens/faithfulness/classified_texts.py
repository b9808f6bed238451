"""Texts with a class each, checked and numbered."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from clvq_lens.arguments import as_list, checked_text
from clvq_lens.errors import DataError, EmptyCorpusError

_KINDS = {"string": str | np.str_, "number": bool | int | float | np.number | np.bool_}


@dataclass(frozen=True)
class ClassifiedTexts:
    """Texts with a class each, and the document that each is from.

    Attributes:
        texts: The texts.
        classes: The class of each text, as a number from 0.
        class_names: The classes as they were given.
        documents: The document of each text, as a number from 0.
    """

    texts: tuple[str, ...]
    classes: Int[np.ndarray, " n"]
    class_names: tuple[object, ...]
    documents: Int[np.ndarray, " n"]

    @classmethod
    def of(
        cls,
        texts: Iterable[object],
        classes: Iterable[object],
        documents: Iterable[object] | None,
    ) -> "ClassifiedTexts":
        """Checks what a user passed, and numbers classes and documents.

        Args:
            texts: The texts.
            classes: The class of each text.
            documents: The document of each text; None: equal texts share one.

        Raises:
            DataError: If the lists differ in length, a text is not a string, a class or document is
                missing or of another kind than the others, or there is one class only.
            EmptyCorpusError: If a text is empty.
        """
        texts = as_list("The texts", texts, "Pass a list of strings.")
        classes = as_list("The classes", classes, "Pass one for each text.")
        # Copies of a text would tell a probe the class of those that it is tested on.
        documents = as_list(
            "The documents", texts if documents is None else documents, "Pass one for each text."
        )
        if not len(texts) == len(classes) == len(documents):
            raise DataError(
                f"There are {len(texts)} texts, {len(classes)} classes and {len(documents)} "
                f"documents. Pass one class, and one document if any, for every text."
            )
        if not all(isinstance(text, str) for text in texts):
            raise DataError("Some of the texts are not strings. Pass a list of strings.")
        for number, text in enumerate(texts):
            if not text.strip():
                raise EmptyCorpusError(f"Text {number} is empty. Leave it out, with its class.")
        class_names, class_numbers = numbered("class", classes)
        if len(class_names) < 2:
            raise DataError(
                f"All texts have the same class, {class_names.tolist()}. Pass texts of two classes "
                f"or more: what decides between them is what is tested."
            )
        _, document_numbers = numbered("document", documents)
        return cls(tuple(texts), class_numbers, tuple(class_names.tolist()), document_numbers)

    @property
    def shares(self) -> Float[np.ndarray, " c"]:
        """Fraction of the texts in each class."""
        return np.bincount(self.classes) / len(self.classes)

    def __len__(self) -> int:
        return len(self.texts)


def numbered(what: str, values: Sequence[object]) -> tuple[np.ndarray, Int[np.ndarray, " n"]]:
    """The different values in order, and which of them each one is.

    Args:
        what: Name of the values in errors, such as "class".
        values: Strings, or numbers: all of one kind, or they would have no common order.

    Raises:
        DataError: If one is missing (None or NaN), neither string nor number, or of another kind
            than the first.
    """
    first = None
    for text, value in enumerate(values):
        kind = _kind_of(value)
        first = kind if first is None else first
        if kind is None or value != value:  # only NaN differs from itself
            raise DataError(
                f"Text {text} has the {what} {value!r}. Pass a string or a number for every text, "
                f"and leave out texts without one."
            )
        # numpy would write numbers as strings without a word, and 1 and "1" would be one class.
        if kind != first:
            raise DataError(
                f"The values of {what} mix kinds: text 0 has a {first}, and text {text} the {kind} "
                f"{value!r}. Pass all of them as strings, or all as numbers."
            )
        if isinstance(value, str):
            checked_text(value, f"The {what} of text {text}")
    return np.unique(np.asarray(values), return_inverse=True)


def _kind_of(value: object) -> str | None:
    for name, types in _KINDS.items():
        if isinstance(value, types):
            return name
    return None
