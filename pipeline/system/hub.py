"""What the hub says of a model that it does not give."""

from __future__ import annotations


def refusal(name: str, error: Exception) -> str | None:
    """Return why a model is kept from this user, and the cure; None where the error is of another kind.

    Args:
        name: the hub id.
        error: of huggingface_hub.
    """
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        return f"is gated: accept its licence at https://huggingface.co/{name}, then set HF_TOKEN (hf auth login)"
    if isinstance(error, RepositoryNotFoundError):
        return (
            "is not on the hub, or private: check the name, or set the HF_TOKEN of one who may read it (hf auth login)"
        )
    return None
