"""The catalogue of techniques: unique names, found in any order of registration, own ones known."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from paretopress.spaces import catalogue, registry
from paretopress.spaces.catalogue import DataNeed
from paretopress.spaces.errors import SettingError
from paretopress.spaces.knob import Knob
from paretopress.spaces.site import Site
from paretopress.spaces.stage import Stage


class Sign:
    """A technique as a user's script would define it."""

    name = "sign-of-a-test"
    stage = Stage.NUMERIC
    data_need = DataNeed.NONE
    forbids = frozenset({"mask"})
    traced_kinds: frozenset[str] = frozenset()

    def supports(self, site: Site) -> bool:
        return site.kind == "linear"

    def knobs(self, site: Site) -> tuple[Knob, ...]:
        return ()


class Other(Sign):
    """Another technique that takes the same name."""


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the process's catalogue as it was."""
    catalogue.techniques()
    monkeypatch.setattr(catalogue.REGISTRY, "members", dict(catalogue.REGISTRY.members))
    monkeypatch.setattr(catalogue.REGISTRY, "loaded", True)


def test_registered_technique_is_found_by_name() -> None:
    """What is registered can be looked up, listed, and conforms to the protocol."""
    sign = catalogue.register(Sign())
    assert catalogue.technique(sign.name) is sign
    assert catalogue.techniques()[sign.name] is sign
    assert isinstance(sign, catalogue.Technique)


def test_installed_techniques_are_found_without_importing_them() -> None:
    """The packaged entry point brings the built-in techniques, in stage order."""
    stages = [t.stage for t in catalogue.techniques().values()]
    assert len(stages) >= 5
    assert stages == sorted(stages)


def test_unknown_name_suggests_the_nearest() -> None:
    """A misspelt technique is an error that names the right one and lists all."""
    catalogue.register(Sign())
    with pytest.raises(SettingError, match=r"'sing-of-a-test'.*Did you mean 'sign-of-a-test'\?.*Known: "):
        catalogue.technique("sing-of-a-test")


def test_taken_name_is_refused_and_the_first_stays() -> None:
    """A technique can't silently replace one of another class."""
    sign = catalogue.register(Sign())
    with pytest.raises(SettingError, match="already taken.*another name"):
        catalogue.register(Other())
    assert catalogue.technique(sign.name) is sign


def test_same_class_may_register_again() -> None:
    """Running a notebook cell twice is no error, and the newer object counts."""
    catalogue.register(Sign())
    again = catalogue.register(Sign())
    assert catalogue.technique(again.name) is again


def test_own_lists_techniques_of_scripts_only() -> None:
    """A worker is handed what it can't import from an installed package, and nothing else."""
    assert catalogue.REGISTRY.own() == []
    sign = catalogue.register(Sign())
    assert catalogue.REGISTRY.own() == [sign]


def test_own_knows_a_technique_registered_before_the_entry_points_load(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A script that registers first and searches later still has its technique sent to the workers."""
    sign = catalogue.register(Sign())
    monkeypatch.setattr(catalogue.REGISTRY, "loaded", False)
    assert catalogue.REGISTRY.own() == [sign]


def test_broken_plugin_is_reported_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin that can't be imported names itself and the remedy, and isn't forgotten on the second call."""
    broken = EntryPoint("plugin", "a_module_that_is_not_there", catalogue.REGISTRY.group)
    monkeypatch.setattr(registry, "entry_points", lambda group: [broken])
    monkeypatch.setattr(catalogue.REGISTRY, "loaded", False)
    for _ in range(2):
        with pytest.raises(SettingError, match=r"a_module_that_is_not_there.*can't be loaded.*uninstall"):
            catalogue.techniques()
