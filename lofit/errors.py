"""The one exception that a user is meant to read."""


class LofitError(ValueError):
    """Something the user can mend: its message is one line that names the place, the value met and what is allowed."""
