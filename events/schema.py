"""
The events as JSON Schema (2020-12), for programs in other languages that read or check them.

Structure, names and defaults come from msgspec. What it cannot know is added here by the name of a field: the pattern
of ids and positions, formats, units. The schema allows unknown fields, because a later release may add some.
`docs/schema/events.json` is generated from this module and never edited.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from events.codec import ENVELOPES, EVENTS, HEARTBEATS, READ_AS_IS, SPECVERSION
from events.ids import PATTERN as ID

if TYPE_CHECKING:
    from collections.abc import Iterable

DIALECT = "https://json-schema.org/draft/2020-12/schema"
DEFINED = "#/$defs/{name}"
IN_JOURNAL = tuple(name for name in EVENTS if name not in HEARTBEATS)
"""The event types that a commit may hold."""

_TIME = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})$"
_POSITION = r"^[0-9]{1,20}\.[0-9]{1,10}$"
_SHA256 = "^[0-9A-Fa-f]{64}$"

_IDS = frozenset({"service_name", "service_type", "agent_type", "tenant", "actor", "commandid"})
"""Fields that have passed `events.ids`, in addition to those named `…_id`."""
_POSITIONS = frozenset({"generation", "causationid", "position"})
_UNITS = {
    "_at": "Seconds since 1970.",
    "_bytes": "In bytes.",
    "_millis": "In thousandths.",
    "_ms": "In milliseconds.",
    "_s": "In seconds.",
    "_s_ago": "In seconds.",
}
_ENVELOPE: dict[str, dict[str, Any]] = {
    "specversion": {"const": SPECVERSION},
    "id": {
        "minLength": 1,
        "description": "Unique at its source; in the journal and the feed the position, `<sequence>.<index>`.",
    },
    "source": {"format": "uri-reference", "minLength": 1},
    "subject": {"description": "The id of the thing the event is about.", "pattern": ID},
    "time": {"format": "date-time", "pattern": _TIME},
    "causationid": {"description": "The id of the event that caused this one."},
    "traceparent": {"description": "W3C Trace Context."},
}


def json_schema() -> dict[str, Any]:
    """
    Return the schema of one event on the wire, a CloudEvent of any type; `$defs` has each type by its name on the wire.

    `$defs` also has the `data` of each type, by the name of its class, and `commit`, the body of a journal message.
    """
    return {
        "$schema": DIALECT,
        "$id": "urn:coordinator:events",
        "title": "Events of the coordinator",
        "description": "One fact, as a CloudEvent 1.0 in JSON. Fields with their default value are omitted.",
        "oneOf": [reference(name, DEFINED) for name in EVENTS],
        "$defs": {
            "commit": {
                "title": "A commit",
                "description": "All events of one turn of the writer: one message of the journal.",
                "type": "array",
                "minItems": 1,
                "items": {"oneOf": [reference(name, DEFINED) for name in IN_JOURNAL]},
            },
            **event_schemas(DEFINED),
        },
    }


def event_schemas(template: str) -> dict[str, Any]:
    """Return the schema of each event type by its name on the wire, and those of the data; references by *template*."""
    made = components(list(ENVELOPES.values()), template)
    events = {name: _enveloped(name, made.pop(f"{event.__name__}Envelope")) for name, event in EVENTS.items()}
    return {**events, **made}


def components(types: Iterable[Any], template: str) -> dict[str, Any]:
    """Return the schemas of *types* and of all types they use, by name; a reference is *template* with the `name`."""
    _, described = msgspec.json.schema_components(types, ref_template=template)
    made: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(described))  # defaults as JSON has them
    for schema in made.values():
        for name, field in schema.get("properties", {}).items():
            _refine(name, field)
    return made


def reference(name: str, template: str) -> dict[str, Any]:
    """Return a reference to the schema *name*."""
    return {"$ref": template.format(name=name)}


def _enveloped(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Narrow the schema of a CloudEvent to what holds for one of our event types."""
    event, fields = EVENTS[name], schema["properties"]
    for attribute, known in _ENVELOPE.items():
        fields[attribute] |= known
    fields["type"] = {"const": name}
    fields["dataversion"] = {"enum": list(READ_AS_IS[event])} if event.SINCE else {"const": event.VERSION}
    about = {"title": name, "description": (event.__doc__ or "").strip().partition("\n")[0]}
    return schema | about


def _refine(name: str, field: dict[str, Any]) -> None:
    """Add the pattern or the unit that the name of a field implies."""
    if field.get("type") == "string":
        pattern = _pattern_of(name)
        if pattern is not None:
            # A field without a value is omitted; its default is the empty text.
            field["pattern"] = f"{pattern}|^$" if field.get("default") == "" else pattern
        return
    unit = next((unit for ending, unit in _UNITS.items() if name.endswith(ending)), None)
    if unit is not None:
        field["description"] = unit


def _pattern_of(name: str) -> str | None:
    if name.endswith("_id") or name in _IDS:
        return ID
    if name in _POSITIONS:
        return _POSITION
    return _SHA256 if name == "digest" else None
