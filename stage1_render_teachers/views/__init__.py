"""Which views of a scene the teachers look at, and how they are rendered."""
