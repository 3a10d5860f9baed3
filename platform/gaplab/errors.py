"""Errors that the user can fix. They are printed as one line each, never as a traceback."""


class UserError(Exception):
    """The input is wrong. Each problem is one line that says what, where, and how to fix it."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class StorageError(UserError):
    """A file or a database can't be written: the disk is full, or permission is denied."""
