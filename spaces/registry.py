"""Things known by name, brought by installed packages (entry points) or registered by a script."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Generic, Protocol, TypeVar

from .errors import SettingError, nearest


class Named(Protocol):
    """Anything with a name."""

    @property
    def name(self) -> str:
        """Its name in settings and files."""
        ...


T = TypeVar("T", bound=Named)


class Registry(Generic[T]):
    """A dictionary by name that loads the entry points of its group at the first look-up.

    Parameters
    ----------
    group
        The entry points' group: modules that register things when they are imported.
    what
        What its members are called in messages.
    """

    def __init__(self, group: str, what: str) -> None:
        self.group, self.what = group, what
        self.members: dict[str, T] = {}
        self.loaded = False

    def _load(self) -> None:
        if self.loaded:
            return
        self.loaded = True  # before loading: a member's module may look others up
        for entry in entry_points(group=self.group):
            try:
                entry.load()
            except Exception as error:
                self.loaded = False
                advice = f"Mend or uninstall the package {entry.dist.name if entry.dist else 'that declares it'}."
                raise SettingError(
                    f"entry point {self.group}", entry.value, f"can't be loaded: {error}", advice
                ) from error

    def add(self, member: T) -> None:
        """Make a member known by its name. Adding the same class again replaces it.

        Raises
        ------
        SettingError
            If another class has that name.
        """
        known = self.members.get(member.name)
        if known is not None and _origin(known) != _origin(member):
            raise SettingError(self.what, member.name, "is already taken", "Give yours another name.")
        self.members[member.name] = member

    def get(self, name: str) -> T:
        """Return the member of that name, or raise SettingError with the nearest known one."""
        self._load()
        if name not in self.members:
            raise SettingError(self.what, name, "is unknown", nearest(name, self.members))
        return self.members[name]

    def all(self) -> dict[str, T]:
        """Return all members by name."""
        self._load()
        return dict(self.members)

    def own(self) -> list[T]:
        """Return the members that no installed package brings: those a worker process must be handed."""
        self._load()
        brought = {entry.module.partition(".")[0] for entry in entry_points(group=self.group)}
        return [m for m in self.members.values() if type(m).__module__.partition(".")[0] not in brought]


def _origin(member: object) -> tuple[str, str]:
    return type(member).__module__, type(member).__qualname__
