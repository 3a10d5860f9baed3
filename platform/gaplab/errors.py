"""Errors that are a person's to mend: shown as one line each, never as a traceback."""


class UserError(Exception):
    """Something in the input is wrong. Each problem is one line: what, where, remedy."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class StorageError(UserError):
    """A file or a database can't be written: the disk is full, or writing is not allowed."""
