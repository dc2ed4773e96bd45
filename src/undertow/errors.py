"""The exceptions undertow raises for input it cannot use.

    UndertowError                 anything the user can mend; the command line prints it and exits with 2
    ├── ConfigError               an option outside its range, an unknown name
    ├── DataError                 a source that is missing, unreadable, empty, or has the wrong columns or labels
    ├── ModelError                a model that cannot be loaded, or whose modules are not known
    ├── TrainingError             a loss or gradient that is not finite; names the rows or the module
    └── RunFolderError            a run folder that holds something else than what is asked for

Every message is one paragraph that says what came, what is accepted, and what to do next.
"""


class UndertowError(Exception):
    """Base of all errors that a user can mend. ``exit_code`` is what the command line returns."""

    exit_code = 2


class ConfigError(UndertowError):
    """An option is outside its range or a name is not known."""


class DataError(UndertowError):
    """A data source is missing, unreadable, empty, or its columns or labels do not fit."""


class ModelError(UndertowError):
    """A model cannot be loaded safely, or its modules are not known."""


class TrainingError(UndertowError):
    """A loss or a gradient is not finite."""


class RunFolderError(UndertowError):
    """A run folder exists already, or holds another configuration."""
