"""A session as it is lived: the steps of a unit, and where they run."""
