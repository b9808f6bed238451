"""The client of the Hub, which tells it the name and version of this library."""

from importlib.metadata import version

from huggingface_hub import HfApi


def client(token: str | bool | None) -> HfApi:
    """A client for one task; it sends the token to the Hub and writes it nowhere.

    Args:
        token: Access token; None: the one of ``hf auth login``, if any; False: no token.
    """
    return HfApi(token=token, library_name="clvq-lens", library_version=version("clvq-lens"))
