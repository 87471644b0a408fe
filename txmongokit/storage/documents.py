"""
Classes of documents, and how their instances become documents of the
collection: C{dict} and its subclasses as they are, pydantic's models by their
own methods, dataclasses and attrs classes by C{cattrs}.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Any, Generic, Protocol, TypeVar, get_args, get_origin

from txmongokit.storage.errors import Misfit
from txmongokit.storage.lookups import Names
from txmongokit.storage.names import any_key, dumped_key
from txmongokit.storage.values import check_key

__all__ = ["Conversion", "DocumentClass", "DocumentClasses"]

T = TypeVar("T")

_EXTRA = "pip install 'txmongokit[storage]'"
_KEY_FIELDS = ("_id", "pk")
# Pydantic's errors whose texts have nothing of the document in them.
_TOLD = frozenset(
    {
        "bool_parsing",
        "bool_type",
        "bytes_type",
        "date_from_datetime_inexact",
        "date_type",
        "datetime_type",
        "decimal_parsing",
        "decimal_type",
        "dict_type",
        "enum",
        "extra_forbidden",
        "float_parsing",
        "float_type",
        "frozen_set_type",
        "greater_than",
        "greater_than_equal",
        "int_from_float",
        "int_parsing",
        "int_type",
        "is_instance_of",
        "less_than",
        "less_than_equal",
        "list_type",
        "literal_error",
        "missing",
        "model_type",
        "set_type",
        "string_pattern_mismatch",
        "string_too_long",
        "string_too_short",
        "string_type",
        "time_type",
        "too_long",
        "too_short",
        "tuple_type",
        "uuid_type",
    }
)


class Conversion(Protocol):
    """
    What a converter of C{cattrs} can do, as far as it is needed.
    """

    def structure(self, obj: Any, cl: Any, /) -> Any:
        """An instance of a class, from a document."""

    def unstructure(self, obj: Any, /) -> Any:
        """A document, from an instance; or a value of BSON's, from another."""


def _same(value: Any) -> Any:
    return value


def _name_of(error: Exception) -> str:
    return type(error).__name__


@dataclasses.dataclass(frozen=True)
class DocumentClass(Generic[T]):
    """
    A class of documents.

    @ivar names: what its fields are called.
    @ivar structure: makes an instance of a document whose key has the field's
        name.
    @ivar unstructure: makes such a document of an instance.
    @ivar plain: makes a value of BSON's of one for a condition.
    @ivar explain: tells what was wrong with a document, without its values.
    """

    doc_class: type[T]
    names: Names
    structure: Callable[[dict[str, Any]], T]
    unstructure: Callable[[Any], Mapping[str, Any]]
    plain: Callable[[Any], Any] = _same
    explain: Callable[[Exception], str] = _name_of

    @property
    def name(self) -> str:
        """The class's name, for people."""
        return getattr(self.doc_class, "__name__", str(self.doc_class))

    def encode(self, instance: Any) -> dict[str, Any]:
        """
        A document for the collection, with C{_id} first; without it where
        the instance has no key.

        @raise TypeError: the converter gives no document, a field's name is
            no string, or the key cannot be one.
        @raise ValueError: a field's name begins with C{$}, or there are two
            keys.
        """
        fields = self.unstructure(instance)
        if not isinstance(fields, Mapping):
            raise TypeError(f"a document cannot be made of {type(instance).__name__}")
        document = dict(fields)
        for name in document:
            if not isinstance(name, str):
                raise TypeError(f"fields' names are strings, not {type(name).__name__}")
            if name.startswith("$") or "\x00" in name:
                raise ValueError(f"{name!r} cannot be the name of a field")
        name = self.names.key
        if name not in ("", "_id") and "_id" in document:
            raise ValueError(f"the key is the field {name!r}: there cannot be '_id', too")
        key = document.pop(name or "_id", None)
        return document if key is None else {"_id": check_key(key), **document}

    def decode(self, document: Mapping[str, Any], place: str) -> T:
        """
        An instance, from a document of the collection.

        @raise Misfit: the document does not fit.
        """
        fields = dict(document)
        name = self.names.key
        key = fields.get("_id")  # A view may have none.
        if name != "_id" and "_id" in fields:
            del fields["_id"]
            if name in fields:
                raise self._misfit(
                    place, key, f"it has a field {name!r} besides its key", ValueError(name)
                )
            if name:
                fields = {name: key, **fields}
        try:
            return self.structure(fields)
        except Exception as error:
            # Its own text may show what is in the document.
            raise self._misfit(place, key, self.explain(error), error) from None

    def _misfit(self, place: str, key: Any, why: str, reason: Exception) -> Misfit:
        return Misfit(place, key, self.name, why, reason)


class DocumentClasses:
    """
    The classes of documents of one storage.

    @param key_field: the name of the field that is the key; C{None} for
        C{_id} or C{pk}, whichever a class has.
    @param converter: converts instances of other classes than C{dict}'s and
        pydantic's; C{None} for C{cattrs}' own.
    """

    def __init__(self, key_field: str | None = None, converter: Conversion | None = None) -> None:
        if key_field is not None and (not key_field or "." in key_field or "$" in key_field):
            raise ValueError(f"key_field={key_field!r} cannot be the name of a field")
        self._key_field = key_field
        self._given = converter
        self._made: Conversion | None = None
        self._of_conditions: Conversion | None = None
        self._known: dict[type[Any], DocumentClass[Any]] = {}

    def of(self, doc_class: type[T]) -> DocumentClass[T]:
        """
        A class of documents.

        @raise TypeError: it cannot be one.
        @raise ImportError: it needs C{cattrs}, which is not installed.
        """
        if not isinstance(get_origin(doc_class) or doc_class, type):
            raise TypeError(f"a class of documents is expected, not {type(doc_class).__name__}")
        known = self._known.get(doc_class)
        if known is None:
            known = self._known[doc_class] = self._make(doc_class)
        return known

    def _make(self, doc_class: type[Any]) -> DocumentClass[Any]:
        # Generic classes may come with their arguments.
        plain_class: Any = get_origin(doc_class) or doc_class
        if issubclass(plain_class, Mapping):
            made: Any = doc_class
            return DocumentClass(doc_class, Names(self._key_field or "_id"), made, _same)
        declared = _declared_fields(plain_class)
        if hasattr(plain_class, "model_validate") and hasattr(plain_class, "model_dump"):
            return self._model(doc_class)
        if self._given is None and declared is None:
            raise TypeError(
                f"{plain_class.__name__} is no class of documents: those are dict and its "
                "subclasses, dataclasses, attrs classes and pydantic's models, and others where "
                "the storage has a converter for them"
            )
        converter = self._converter()
        if self._given is None:
            _conversion().refuse_unreadable(converter, doc_class)
        # A converter of the application's own may call fields what it likes.
        fields = declared if self._given is None else None
        return DocumentClass(
            doc_class,
            Names(self._key_of(declared or frozenset()), fields),
            lambda document: converter.structure(document, doc_class),
            converter.unstructure,
            self._plain(),
            _explain if self._given is None else _name_of,
        )

    def _model(self, doc_class: Any) -> DocumentClass[Any]:
        """One of pydantic's models."""
        fields = frozenset(
            field.serialization_alias or field.alias or name
            for name, field in doc_class.model_fields.items()
        ) | {field.alias or name for name, field in doc_class.model_computed_fields.items()}
        open_ended = doc_class.model_config.get("extra") == "allow"
        after = _conversion().make_converter(decimals=False, untyped=dumped_key)
        return DocumentClass(
            doc_class,
            Names(self._key_of(fields), None if open_ended else fields),
            doc_class.model_validate,
            lambda model: after.unstructure(model.model_dump(by_alias=True)),
            self._plain(),
            partial(_explain_model, _names_within(doc_class)),
        )

    def _key_of(self, fields: frozenset[str]) -> str:
        wanted = _KEY_FIELDS if self._key_field is None else (self._key_field, "_id")
        return next((name for name in wanted if name in fields), "")

    def _converter(self) -> Conversion:
        if self._given is not None:
            return self._given
        if self._made is None:
            self._made = _conversion().make_converter()
        return self._made

    def _plain(self) -> Callable[[Any], Any]:
        """What makes a value of BSON's of one for a condition."""
        if self._given is not None:
            return self._given.unstructure
        if self._of_conditions is None:
            self._of_conditions = _conversion().make_converter(untyped=any_key)
        return self._of_conditions.unstructure


def _conversion() -> Any:
    try:
        import txmongokit.storage.conversion as conversion
    except ImportError as error:
        raise ImportError(f"documents of classes other than dict need cattrs: {_EXTRA}") from error
    return conversion


def _declared_fields(doc_class: type[Any]) -> frozenset[str] | None:
    """The fields of a dataclass or an attrs class that are stored."""
    fields: Any = getattr(doc_class, "__attrs_attrs__", None)
    if dataclasses.is_dataclass(doc_class):
        fields = dataclasses.fields(doc_class)
    return None if fields is None else frozenset(each.name for each in fields if each.init)


def _explain(error: Exception) -> str:
    told: str = _conversion().explain(error)
    return told


def _explain_model(names: AbstractSet[str], error: Exception) -> str:
    problems: Any = getattr(error, "errors", None)
    if not callable(problems):
        return _name_of(error)
    found = problems(include_input=False, include_url=False, include_context=False)
    return "; ".join(
        f"{each['msg'] if each['type'] in _TOLD else each['type']} @ {_place(names, each['loc'])}"
        for each in found
    )


def _place(names: AbstractSet[str], path: Iterable[int | str]) -> str:
    """Where something is wrong: keys of mappings are not told, as they are a document's own."""
    told = "$"
    for each in path:
        told += f"[{each}]" if isinstance(each, int) else f".{each}" if each in names else "[...]"
    return told


def _names_within(doc_class: Any) -> frozenset[str]:
    """What fields are called in a model and in those that its fields are of."""
    names: set[str] = set()
    seen: set[Any] = set()
    left: list[Any] = [doc_class]
    while left:
        kind = left.pop()
        left.extend(get_args(kind))
        if not isinstance(kind, type) or kind in seen:
            continue
        seen.add(kind)
        for name, field in getattr(kind, "model_fields", {}).items():
            alias = field.validation_alias or field.alias
            names |= {name, alias} if isinstance(alias, str) else {name}
            left.append(field.annotation)
    return frozenset(names)
