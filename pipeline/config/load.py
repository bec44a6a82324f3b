"""Settings from a YAML file and `--set` arguments, and errors that a person can act on."""

import dataclasses
import difflib
import os
import re
import typing
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.errors import SettingsError

Settings = TypeVar("Settings", bound=BaseModel)
MAX_NODES = 1_000_000  # of a file, aliases written out
BASE = "base"  # the key that names the file that a file is based on


class _StrictLoader(yaml.SafeLoader):
    """YAML without its two traps: a repeated key is refused, and 1e-4 is a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*([eE][-+]?\d+)|\.\d+([eE][-+]?\d+)?|\d[\d_]*\.[\d_]*([eE][-+]?\d+)?)$"),
    list("-+0123456789."),
)


def parse_yaml(text: str, where: str) -> Any:
    """Raises:
    SettingsError: the text is not YAML, with the line and column.
    """
    try:
        _check_size(yaml.compose(text, _StrictLoader), where)
        return yaml.load(text, _StrictLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{where}: line {mark.line + 1}, column {mark.column + 1}" if mark else where
        raise SettingsError(place, error.problem or "is not YAML") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise SettingsError(where, f"is not YAML ({str(error).splitlines()[0]})") from error


def _check_size(root: yaml.Node | None, where: str) -> None:
    """Aliases are small where they are written and large where they are read: ten lines can stand for a billion.

    Raises:
        SettingsError: written out, the text would be too large, or without end.
    """
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = MAX_NODES + 1  # until it is known: one that holds itself has no size
            below = node.value if isinstance(node, yaml.CollectionNode) else []
            parts = [part for item in below for part in (item if isinstance(item, tuple) else (item,))]
            sizes[id(node)] = 1 + sum(size(part) for part in parts)
        return sizes[id(node)]

    if root is not None and size(root) > MAX_NODES:
        raise SettingsError(
            where, f"its aliases (*name) stand for more than {MAX_NODES:,} values: write out what is meant"
        )


def load(model: type[Settings], path: str | Path, overrides: Sequence[str] = ()) -> Settings:
    """The settings of a job.

    Args:
        model: what the file must hold.
        path: a YAML file; see `read` for what it may be based on.
        overrides: `a.b=value` arguments, the value in YAML; they come after the file.

    Raises:
        SettingsError: one sentence with the file, the key, the value and the mend.
    """
    content = read(path)
    for override in overrides:
        set_key(content, *_parse_override(override))
    return validate(model, _expand(content, str(path)), str(path))


def read(path: str | Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """What a file holds, over what its `base` holds if it names one: another file, by a path from its own folder.

    Keys within keys are joined, down to where the two differ. A list is replaced whole, and so is what has a `kind` of
    its own.

    Args:
        path: a YAML file.
        above: the files that are based on this one.

    Raises:
        SettingsError: a file cannot be read, or is its own base.
    """
    path = Path(path)
    if path.resolve() in above:
        raise SettingsError(path, "is its own base, by way of others or at once")
    content = _read_alone(path)
    base = content.pop(BASE, None)
    if base is None:
        return content
    if not isinstance(base, str):
        raise SettingsError(f"{path}: {BASE}", f"must be the path of a file (got {_short(base)})")
    return _join(read(path.parent / base, (*above, path.resolve())), content)


def _read_alone(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise SettingsError(path, "there is no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(path, f"cannot be read ({error})") from error
    content = parse_yaml(text, str(path))
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise SettingsError(path, f"must hold keys and values (got a {type(content).__name__})")
    return content


def _join(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    joined = dict(base)
    for key, value in over.items():
        below = base.get(key)
        if isinstance(value, dict) and isinstance(below, dict) and "kind" not in value:
            joined[key] = _join(below, value)
        else:
            joined[key] = value
    return joined


def validate(model: type[Settings], content: Mapping[str, Any], where: str) -> Settings:
    """Raises:
    SettingsError: the first thing that is wrong; `where` is the file.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise _sentence(model, error, where) from None


def _parse_override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise SettingsError("--set", f"must be KEY=VALUE, such as training.seed=1 (got {text!r})")
    return key, parse_yaml(value, f"--set {key}")


def set_key(content: dict[str, Any], key: str, value: Any) -> None:
    """Sets `a.b.c` in nested dictionaries, in place; what lies on the way is made.

    Raises:
        SettingsError: something on the way is no dictionary.
    """
    *parents, last = key.split(".")
    for parent in parents:
        inner = content.get(parent)
        if inner is None:
            inner = content[parent] = {}
        if not isinstance(inner, dict):
            raise SettingsError(key, f"{parent} is {inner!r} and has no keys; set it whole")
        content = inner
    content[last] = value


def _expand(value: Any, where: str) -> Any:
    """`${NAME}` in texts, from the environment."""
    if isinstance(value, dict):
        return {key: _expand(item, f"{where}: {key}") for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, where) for item in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        found = os.environ.get(match[1])
        if found is None:
            raise SettingsError(where, f"the environment variable {match[1]} is not set (in {value!r}); set it first")
        return found

    return re.sub(r"\$\{(\w+)\}", replace, value)


# -- from pydantic's errors to one sentence ------------------------------------------------------------------------


def _sentence(model: type[BaseModel], error: ValidationError, where: str) -> SettingsError:
    first, *others = error.errors()
    path, names, own = _locate(model, first["loc"])
    problem = _problem(first, path, names)
    key, colon, rest = problem.partition(": ")
    if colon and key.split(".")[0] in own:  # a part checks its own fields and names them first
        path, problem = f"{path}.{key}".lstrip("."), rest
    more = f" (and {len(others)} more)" if others else ""
    return SettingsError(": ".join(part for part in (where, path) if part), shortened(problem, 600) + more)


def _problem(error: Any, path: str, names: list[str]) -> str:
    key, got = path.rsplit(".", 1)[-1], error["input"]
    match error["type"]:
        case "extra_forbidden" | "unexpected_keyword_argument":
            return f"unknown key{_did_you_mean(key, names)}"
        case "missing" | "missing_argument":
            return "is missing"
        case "union_tag_invalid":
            known = [name.strip(" '") for name in error["ctx"]["expected_tags"].split(",")]
            tag = error["ctx"]["tag"]
            return f"unknown kind {_short(tag)}{_did_you_mean(tag, known)}; known are {', '.join(known)}"
        case "union_tag_not_found":
            return f"needs a `kind` (got {_short(got)})"
        case "value_error":
            return str(error["ctx"]["error"])
        case _:
            message = error["msg"]
            return f"{message[:1].lower()}{message[1:]} (got {_short(got)})"


def _did_you_mean(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(str(word), known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else (f"; known are {', '.join(known)}" if known else "")


def _short(value: Any) -> str:
    return shortened(repr(value))


def shortened(text: str, length: int = 80) -> str:
    """A text as a sentence can hold it."""
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _locate(model: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[str, list[str], list[str]]:
    """The dotted path of an error, without pydantic's union tags; the names of the keys beside it, and those in it."""
    path: list[str] = []
    current: Any = model
    beside: list[str] = []
    for part in loc:
        current = _strip(current)
        members = _members(current)
        if members and (chosen := [member for member in members if _kind(member) == part]):
            current = chosen[0]
            continue
        fields = field_types(current)
        beside = list(fields)
        path.append(shortened(str(part)))
        if part in fields:
            current = fields[str(part)]
        else:
            arguments = typing.get_args(current)
            current = arguments[-1] if arguments and arguments[-1] is not Ellipsis else (arguments or (None,))[0]
    return ".".join(path), beside, list(field_types(_strip(current)))


def _strip(annotation: Any) -> Any:
    if typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    return annotation


def _members(annotation: Any) -> tuple[Any, ...]:
    is_union = isinstance(annotation, UnionType) or typing.get_origin(annotation) is typing.Union
    return typing.get_args(annotation) if is_union else ()


def _kind(member: Any) -> Any:
    literal = field_types(_strip(member)).get("kind")
    return (typing.get_args(literal) or (None,))[0] if literal is not None else getattr(member, "__name__", None)


def field_types(annotation: Any) -> dict[str, Any]:
    """The keys of a model or dataclass and their annotations; of a union, those of its first member that has any."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {name: field.rebuild_annotation() for name, field in annotation.model_fields.items()}
    if dataclasses.is_dataclass(annotation):
        hints = typing.get_type_hints(annotation, include_extras=True)
        return {field.name: hints[field.name] for field in dataclasses.fields(annotation)}
    candidates = [field_types(_strip(member)) for member in _members(annotation)]
    return next((fields for fields in candidates if fields), {})
