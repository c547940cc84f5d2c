-- The read model. All of it follows from the journal: it may be deleted at any time and is then rebuilt.
--
-- A place in the journal is one integer here, sequence * 1048576 + index, so that the order of rows is the order of
-- events and every index contains it by itself. Any change below needs a higher SCHEMA_VERSION in sqlite.py. A read model
-- that is bounded has one more table, `removed`: see retention.py.

BEGIN;

-- The position up to which the store contains the journal: one row, written in the transaction of its rows.
CREATE TABLE position (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    sequence INTEGER NOT NULL,
    idx INTEGER NOT NULL,
    chain TEXT NOT NULL,            -- hash of the journal up to here, hexadecimal
    fold_version INTEGER NOT NULL,  -- of the reducers that made the rows
    generation INTEGER NOT NULL,
    time REAL NOT NULL,             -- of the last commit, seconds since 1970
    unfoldable TEXT NOT NULL        -- the first event that the release which wrote this could not fold
);

-- Every event as in the journal; body holds the bytes of the CloudEvent: SELECT CAST(body AS TEXT) FROM events.
CREATE TABLE events (
    place INTEGER PRIMARY KEY,
    sequence INTEGER GENERATED ALWAYS AS (place >> 20) VIRTUAL,
    idx INTEGER GENERATED ALWAYS AS (place & 1048575) VIRTUAL,
    type TEXT NOT NULL,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    time TEXT NOT NULL,
    tenant TEXT NOT NULL,
    actor TEXT NOT NULL,
    commandid TEXT NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX events_by_subject ON events (subject);
CREATE INDEX events_by_kind ON events (kind, place, type);  -- finds the type without reading the event

-- All entities, ended or not, one table for each kind. `created` is the place of the event that created it, `state` the
-- folded state as JSON. Ended entities stay here when they are evicted from the world.
CREATE TABLE tasks (
    created INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, status TEXT NOT NULL, tenant TEXT NOT NULL, name TEXT NOT NULL,
    ended_at REAL, state TEXT NOT NULL
);
CREATE TABLE containers (
    created INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, status TEXT NOT NULL, tenant TEXT NOT NULL, name TEXT NOT NULL,
    ended_at REAL, state TEXT NOT NULL
);
CREATE TABLE services (
    created INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, status TEXT NOT NULL, tenant TEXT NOT NULL, name TEXT NOT NULL,
    ended_at REAL, state TEXT NOT NULL
);
CREATE TABLE workers (
    created INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, status TEXT NOT NULL, tenant TEXT NOT NULL, name TEXT NOT NULL,
    ended_at REAL, state TEXT NOT NULL
);
CREATE TABLE nodes (
    created INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, status TEXT NOT NULL, tenant TEXT NOT NULL, name TEXT NOT NULL,
    ended_at REAL, state TEXT NOT NULL
);
CREATE TABLE pools (
    created INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, status TEXT NOT NULL, tenant TEXT NOT NULL, name TEXT NOT NULL,
    ended_at REAL, state TEXT NOT NULL
);
CREATE TABLE sessions (
    created INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, status TEXT NOT NULL, tenant TEXT NOT NULL, name TEXT NOT NULL,
    ended_at REAL, state TEXT NOT NULL
);
CREATE INDEX tasks_by_status ON tasks (status);
CREATE INDEX tasks_by_name ON tasks (name);
CREATE INDEX tasks_by_tenant ON tasks (tenant);
CREATE INDEX containers_by_status ON containers (status);
CREATE INDEX containers_by_name ON containers (name);
CREATE INDEX services_by_status ON services (status);
CREATE INDEX services_by_name ON services (name);
CREATE INDEX sessions_by_status ON sessions (status);

PRAGMA user_version = 1;
COMMIT;
