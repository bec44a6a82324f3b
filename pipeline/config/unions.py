"""Unions within parts, such as a solver's `beta`: told apart by `kind` as the unions of the settings are.

The parts know nothing of pydantic, so a union among their fields would be tried member by member: a wrong key would be
answered with the complaints of all members, and a missing `kind` guessed.
"""

from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema


class NestedKinds:
    """For `Annotated[Union, Field(discriminator="kind"), NestedKinds()]`: the unions in its members' fields, too."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        _tell_apart(schema, handler)
        return schema


def _tell_apart(schema: Any, handler: GetCoreSchemaHandler) -> None:
    """Makes tagged unions of the unions of parts in a schema, in place."""
    match schema["type"]:
        case "definition-ref":
            _tell_apart(handler.resolve_ref_schema(schema), handler)
        case "default" | "dataclass":
            _tell_apart(schema["schema"], handler)
        case "dataclass-args":
            for field in schema["fields"]:
                _tell_apart(field["schema"], handler)
        case "tagged-union":
            for choice in schema["choices"].values():
                _tell_apart(choice, handler)
        case "union":
            kinds = {_kind(choice, handler): choice for choice in schema["choices"]}
            if None not in kinds:
                schema.clear()
                schema.update(core_schema.tagged_union_schema(kinds, discriminator="kind"))
                _tell_apart(schema, handler)


def _kind(choice: Any, handler: GetCoreSchemaHandler) -> str | None:
    """The `kind` of a part; None of anything else."""
    if choice["type"] == "definition-ref":
        choice = handler.resolve_ref_schema(choice)
    if choice["type"] != "dataclass":
        return None
    first = choice["schema"]["fields"][0]
    literal = first["schema"].get("schema", {})
    return str(literal["expected"][0]) if first["name"] == "kind" and literal.get("type") == "literal" else None
