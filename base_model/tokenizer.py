"""The tokenizer of a base model: the same object for building datasets, training and serving."""

from pathlib import Path
from typing import Any

from errors import BaseRefused


def load_tokenizer(folder: Path) -> Any:
    """The transformers tokenizer in *folder*, read from local files, without running code from there.

    Raises:
        BaseRefused: If it cannot be read.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise BaseRefused(
            f"the tokenizer in '{folder}' does not load ({type(error).__name__}): tokenizer.json and "
            "tokenizer_config.json must both be there and whole",
            code="tokenizer_does_not_load",
        ) from error
