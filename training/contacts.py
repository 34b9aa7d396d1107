"""``contacts.yaml``: what the user says of the people: identifier or thread -> name and relation."""

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from errors import DataRefused
from prompt_format.persona import check_category


class Contact(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    name: str | None = None
    relation: str | None = None


def load_relations(path: Path) -> dict[str, str]:
    """identifier -> relation, for each contact that has one.

    Raises:
        DataRefused: If the file cannot be read or a relation cannot stand in a prompt.
    """
    try:
        contacts = TypeAdapter(dict[str, Contact]).validate_python(yaml.safe_load(path.read_text(encoding="utf-8")))
        return {key: check_category(c.relation) for key, c in contacts.items() if c.relation}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataRefused(f"'{path}' cannot be read ({type(error).__name__})", code="unreadable_file") from None
    except ValidationError as error:
        where = [".".join(map(str, row["loc"])) for row in error.errors(include_input=False)]
        raise DataRefused(f"'{path}' is not a list of contacts", code="contacts_malformed", details=where) from None
    except ValueError as error:
        raise DataRefused(f"'{path}': {error}", code="contacts_malformed") from None
