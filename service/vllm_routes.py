"""Loading and unloading in the shape that vLLM's clients use, over our own store.

``lora_path`` is never opened: it must name what the store has under ``lora_name``.
"""

import re

from fastapi import Request
from pydantic import Field
from starlette.responses import PlainTextResponse, Response

from errors import AdapterRefused, InvalidField, Malformed
from prompt_format.manifest import GENERATION_PATTERN, NAME_PATTERN
from service.delivery import body
from service.registry import Registry
from service.schemas import Strict, parse


class LoadRequest(Strict):
    """``load_inplace`` lets a name that is loaded move to another generation."""

    lora_name: str = Field(pattern=NAME_PATTERN)
    lora_path: str = Field(max_length=4096)
    load_inplace: bool = False

    def generation(self) -> str | None:
        """The generation that ``lora_path`` names; None is CURRENT's.

        Raises:
            InvalidField: If it ends neither in NAME, NAME/GENERATION nor NAME@GENERATION.
        """
        ending = f"(?:.*/)?{re.escape(self.lora_name)}(?:[/@]({GENERATION_PATTERN[1:-1]}))?/?"
        found = re.fullmatch(ending, self.lora_path)
        if found is None:
            raise InvalidField(
                "lora_path: adapters come from this service's own store, so it must name the one that lora_name does",
                details=["lora_path: neither NAME, NAME/GENERATION nor NAME@GENERATION"],
            )
        return found[1]


class UnloadRequest(Strict):
    lora_name: str = Field(pattern=NAME_PATTERN)
    lora_int_id: int | None = None  # vLLM's own number for it


async def load_lora_adapter(request: Request) -> Response:
    """What ``POST /adapters/reload`` does with one name, if it is in no slot or may be loaded in place."""
    asked = parse(LoadRequest, await body(request))
    generation = asked.generation()
    registry: Registry = request.app.state.registry
    if asked.lora_name in registry.serving and not asked.load_inplace:
        raise Malformed(
            f"'{asked.lora_name}' has been loaded already: set load_inplace to load another generation of it",
            code="already_loaded",
        )
    (result,) = results = await registry.reload(asked.lora_name, generation)
    request.app.state.metrics.reloaded(results)
    if result.status == "refused":
        first = result.errors[0]
        raise AdapterRefused(f"'{result.name}': {first['message']}", code=first["code"], details=first["details"])
    return PlainTextResponse(f"Success: LoRA adapter '{result.name}' added successfully: {result.generation}.")


async def unload_lora_adapter(request: Request) -> Response:
    """The name answers no more until it is loaded again."""
    asked = parse(UnloadRequest, await body(request))
    await request.app.state.registry.unload(asked.lora_name)
    return PlainTextResponse(f"Success: LoRA adapter '{asked.lora_name}' removed successfully.")
