"""The root of every error that a user can meet."""


class UserError(Exception):
    """Something the user can mend: shown as one line, never as a traceback.

    Args:
        problem: what was given and what was expected instead.
        remedy: what to do about it.
    """

    exit_code = 1  # work that failed

    def __init__(self, problem: str, remedy: str) -> None:
        one_line = " ".join(f"{problem}. {remedy}".split())
        super().__init__(one_line)
        self.problem = problem
        self.remedy = remedy


class UsageError(UserError):
    """The command or call itself was wrong; nothing was attempted."""

    exit_code = 2
