"""The one exception that a user is meant to read."""


class LofitError(ValueError):
    """Something the user can mend: one line that names the place, the value that was found, and what is expected."""
