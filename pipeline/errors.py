"""The tree of exceptions.

    SigmasweepError
    ├── UserError                what was given is wrong; a job prints one sentence and exits with 2
    │   ├── SettingsError        a settings file or `--set`:    where = "file: dotted.path"
    │   ├── DataError            a data set or its source:      where = the file
    │   ├── CheckpointError      a checkpoint or a reference:   where = the checkpoint
    │   ├── StoreError           the store or what lies in it:  where = the key or address
    │   │   ├── ImagesNotKeptError  a chunk whose images were given up to free space
    │   │   └── HeldError           what another process is at
    │   └── NewerFormatError     a file of a later version:     where = the file
    └── RunFailedError            the work itself failed; a job prints one sentence and exits with 1

Every error is (where, problem): both go to `Exception.__init__`, and the words into `__str__`, so that
an error unpickles to itself when it crosses from a Ray worker to the driver.
"""


class SigmasweepError(Exception):
    """Base of every error raised on purpose.

    Args:
        where: the file, key or object that the sentence is about.
        problem: what is wrong with it, what was found, and the mend.
    """

    def __init__(self, where: object, problem: str) -> None:
        super().__init__(str(where), problem)

    @property
    def where(self) -> str:
        return str(self.args[0])

    @property
    def problem(self) -> str:
        return str(self.args[1])

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}"


class UserError(SigmasweepError):
    """Something the user gave is wrong and only the user can mend it."""


class SettingsError(UserError):
    """A settings file, one of its keys, or a `--set` argument is wrong."""


class DataError(UserError):
    """A data set, or a file that should become one, cannot be used."""


class CheckpointError(UserError):
    """A checkpoint is missing, damaged, or does not fit what is asked of it."""


class StoreError(UserError):
    """The store cannot be read or written, or holds something damaged."""


class ImagesNotKeptError(StoreError):
    """A chunk is whole but for its images, which somebody did not want to keep."""


class HeldError(StoreError):
    """Another living process holds the lease of what was to be done."""


class NewerFormatError(UserError):
    """A later version of this program wrote a file. It is no StoreError, so that nobody sets it aside as damaged."""


class RunFailedError(SigmasweepError):
    """Work that was correctly asked for failed while it ran."""
