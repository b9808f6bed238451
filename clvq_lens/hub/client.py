"""The Hub's own client, which introduces itself as ours."""

from huggingface_hub import HfApi

from clvq_lens import __version__


def client(token: str | bool | None) -> HfApi:
    """A client for one task; the token is sent to the Hub and written nowhere.

    Args:
        token: None: that of ``hf auth login``, if any; False: none.
    """
    return HfApi(token=token, library_name="clvq-lens", library_version=__version__)
