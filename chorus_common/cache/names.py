"""Names and the version that everything which only lists or removes stores needs to know."""

#: Version of the layout in schema.py; another version is refused.
SCHEMA_VERSION = 2
#: Folders that begin so are being written or removed; leftovers of killed runs are swept.
TEMPORARY_PREFIX = ".tmp-"
#: In place of a teacher's fingerprint, where nobody recorded which weights it had: its spec is taken at its word.
UNRECORDED = "unrecorded"
