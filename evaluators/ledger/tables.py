"""Parquet schemas of the ledger's tables, made from the records."""

from datetime import datetime
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pyarrow as pa

from kilobit.search.records import RECORDS, Record

_TYPES: dict[Any, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    bytes: pa.binary(),
    datetime: pa.timestamp("us", tz="UTC"),
}


def columns(record: type[Record]) -> list[tuple[str, pa.DataType, str]]:
    """Return name, type and meaning of each column of a table."""
    hints = get_type_hints(record, include_extras=True)
    return [
        (name, _arrow(hint), get_args(hint)[-1])
        for name, hint in hints.items()
        if get_origin(hint) is Annotated
    ]


def _arrow(kind: Any) -> pa.DataType:
    """Return the Arrow type of a field's type; None beside it makes no difference."""
    origin, options = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return pa.int32() if "int32" in options else _arrow(options[0])
    if origin in (Union, UnionType):
        return _arrow(options[0])
    if origin is tuple:
        return pa.list_(_arrow(options[0]))
    return pa.string() if origin is Literal else _TYPES[kind]


TABLES: dict[str, pa.Schema] = {
    record.table: pa.schema([(name, kind) for name, kind, _ in columns(record)])
    for record in RECORDS
}
