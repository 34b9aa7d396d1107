"""Requests as clients send them: strict, every number within bounds, and no error repeats what was sent."""

from typing import Annotated, Any, Self, TypeVar, get_args

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from errors import InvalidField, Malformed
from prompt_format.manifest import GENERATION_PATTERN, NAME_PATTERN
from service.choice import Sampling


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)


MOST_MESSAGES = 2000
ADAPTER_PATTERN = f"{NAME_PATTERN[:-1]}(@{GENERATION_PATTERN[1:-1]})?$"


def _written_out(value: Any) -> Any:
    """A time as text; pydantic would take a number too, in quotes at least, as seconds since 1970."""
    if not isinstance(value, str) or value.strip("+-.0123456789") == "":
        raise ValueError
    return value


MOST_TOKENS = 4096  # of all replies of a request

# Two characters for programs' own use, which nobody types: in a text they mean that some other program's marks were
# left in it.
NO_MARKS = "^[^\U000f0000\U000f0001]*$"
ONE_LINE = r"^[^\p{Cc}\u{2028}\u{2029}]*$"
Text = Annotated[str, Field(min_length=1, max_length=20_000, pattern=NO_MARKS)]
Moment = Annotated[AwareDatetime, Field(strict=False), BeforeValidator(_written_out)]


class MessageIn(Strict):
    """One message of the thread; ``sender`` and ``sent_at`` are optional."""

    text: Text
    from_me: bool
    sender: str | None = Field(None, max_length=300, pattern=ONE_LINE)
    sent_at: Moment | None = None


class ReplyOptions(Strict):
    """What a request may say beside its thread, on every route that writes replies."""

    category: str | None = Field(None, max_length=32)
    is_group: bool = False
    n: int = Field(1, ge=1, le=8)
    max_tokens: int = Field(64, ge=1, le=1024)
    temperature: float = Field(0.7, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    min_p: float = Field(0.0, ge=0, le=1)
    top_k: int = Field(0, ge=0, le=1_000_000)
    repetition_penalty: float = Field(1.0, ge=0.5, le=2)
    seed: int | None = Field(None, ge=0, lt=2**64)
    stream: bool = False

    @model_validator(mode="after")
    def _not_too_much(self) -> Self:
        if self.n * self.max_tokens > MOST_TOKENS:
            raise InvalidField(
                f"n and max_tokens: {self.n} x {self.max_tokens} tokens are more than {MOST_TOKENS}, lower one of them",
                details=["n: too_many_tokens", "max_tokens: too_many_tokens"],
            )
        return self

    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_p, self.top_k, self.min_p, self.repetition_penalty)


class PromptRequest(ReplyOptions):
    """A thread, and which adapter to answer it with."""

    messages: list[MessageIn] = Field(min_length=1, max_length=MOST_MESSAGES)
    variant: str | None = Field(None, max_length=64)
    name: str | None = Field(None, max_length=32)
    adapter: str | None = Field(None, pattern=ADAPTER_PATTERN)


class ReloadRequest(Strict):
    """Which adapter to pick up: none named is every one in the store."""

    name: str | None = Field(None, pattern=NAME_PATTERN)
    generation: str | None = Field(None, pattern=GENERATION_PATTERN)
    expected_generation: str | None = Field(None, pattern=GENERATION_PATTERN)
    activate: bool = False
    dry_run: bool = False
    allow_unlabelled: bool = False
    variant: str | None = Field(None, max_length=64)

    def check(self) -> None:
        """What is said of one adapter must say of which.

        Raises:
            InvalidField: Naming each field that is of no use without a name.
        """
        about_one = ("generation", "expected_generation", "activate", "allow_unlabelled", "variant")
        lost = [field for field in about_one if getattr(self, field)]
        if self.name is None and lost:
            raise InvalidField(
                "name: say which adapter is meant", details=[f"{field}: only together with a name" for field in lost]
            )


Model = TypeVar("Model", bound=BaseModel)


def parse(model: type[Model], raw: bytes) -> Model:
    """One validated object.

    Raises:
        Malformed: If *raw* is not JSON, or empty.
        InvalidField: Naming each field of ours that is wrong, and never its value.
    """
    if not raw:
        raise Malformed("the body is empty: send JSON, with curl at least -d '{}'")
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        faults: Any = error.errors(include_input=False, include_url=False, include_context=False)
    if faults[0]["type"] == "json_invalid":
        raise Malformed("the body is not JSON in UTF-8")
    details = [f"{_path(model, fault['loc'])}: {fault['type']}" for fault in faults[:50]]
    raise InvalidField(f"a field is wrong: {details[0]}", details=details)


def _path(model: type[BaseModel], location: tuple[Any, ...]) -> str:
    """Where a fault is, in names of ours: a client may have put message text into a key."""
    known = _names(model)
    parts = [str(part) if isinstance(part, int) or part in known else "(unknown field)" for part in location]
    return ".".join(parts) or "(body)"


def _names(kind: Any) -> set[str]:
    """The fields of a model and of the models in them."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        fields = kind.model_fields
        return set(fields).union(*(_names(field.annotation) for field in fields.values()))
    return set[str]().union(*map(_names, get_args(kind)))
