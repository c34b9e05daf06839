"""A run that is recorded in PostgreSQL: a real server, a real search."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
from database import PASSWORD, Server
from optuna.trial import TrialState
from sqlalchemy import text

from paretopress.search import Front, Space, Task, search
from paretopress.search.cli import main
from paretopress.search.journal import Journal, read
from paretopress.search.record import identity
from paretopress.search.result import Objective, Result
from paretopress.search.study_record import StudyRecord
from paretopress.search.trial import Job
from paretopress.spaces.errors import RunError, SettingError
from paretopress.spaces.recipe import Recipe

pytestmark = pytest.mark.postgresql

OBJECTIVES = (Objective("accuracy", "maximize", True), Objective("size", "minimize"))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server for all tests of the file."""
    found = Server()
    yield found
    found.close()


@pytest.fixture
def address(server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """Its database; the password is in the environment."""
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    return server.address


@pytest.fixture
def space(task: Task) -> Space:
    """Bits of every layer."""
    return Space.from_task(task, {"integer": {"bits": [8, 4, 2]}})


@pytest.fixture
def header(task: Task, space: Space) -> dict[str, object]:
    """What the runs here are of."""
    return identity(task, space, OBJECTIVES)


@pytest.fixture
def opened(address: str, space: Space, tmp_path: Path) -> Iterator[Callable[[str], StudyRecord]]:
    """Open the record of a name, with the test's in it, so that tests don't share any."""
    records: list[StudyRecord] = []

    def record(name: str = "run") -> StudyRecord:
        records.append(StudyRecord(address, f"{tmp_path.name} {name}", space))
        return records[-1]

    yield record
    for one in records:
        one.close()


def recipe(space: Space, number: int) -> Recipe:
    """Return one of the space's recipes."""
    return space.uniform(number / 2)


def run(task: Task, space: Space, folder: Path, **options: object) -> Front:
    """Search in this process, silently."""
    settings = {"budget": 6, "executor": "local", "progress": False, "run": folder, "sampler": "random", **options}
    return search(task, space, **settings)  # type: ignore[arg-type]  # keyword arguments by name


def test_a_run_goes_on_without_its_folder(task: Task, space: Space, address: str, tmp_path: Path) -> None:
    """A machine that has nothing but the database's address resumes the run, repeats no trial, and writes the front."""
    folder = tmp_path / "goes on"
    first = run(task, space, folder, storage=address)
    shutil.rmtree(folder)
    again = run(task, space, folder, storage=address, existing="resume", budget=9)
    assert [r.to_json() for r in again.results[:6]] == [r.to_json() for r in first.results]
    assert len(again.results) == 9
    assert all(point.path is not None and (point.path / "model.safetensors").is_file() for point in again)


def test_optuna_shows_the_run(task: Task, space: Space, address: str, tmp_path: Path) -> None:
    """The study has the run's trials with their objectives, states, and parameters by value: dashboards work on it."""
    front = run(task, space, tmp_path / "shown", storage=address)
    url = address.replace("postgresql:", "postgresql+psycopg:")
    study = optuna.load_study(study_name="shown", storage=url)
    assert study.metric_names == ["accuracy", "size"]
    by_number = {r.number: r for r in front.results}
    assert len(study.trials) == len(by_number)
    for trial in study.trials:
        line = next(iter(trial.user_attrs.values()))
        result = by_number[line.get("number", line.get("trial", {}).get("number"))]
        assert (trial.state is TrialState.COMPLETE) == (result.status == "ok")
        if result.status == "ok":
            assert trial.values == [result.value("accuracy"), result.value("size")]
        chosen = {f"{s.site}/{s.technique}.bits": s.options["bits"] for s in result.recipe.steps}
        assert {k: v for k, v in trial.params.items() if k.endswith(".bits")} == chosen


def test_what_was_recorded_comes_back_in_order(
    opened: Callable[..., StudyRecord], header: dict[str, object], space: Space, tmp_path: Path
) -> None:
    """Starts, losses and ends add up to the same in another folder, those of a trial that was run again, too."""
    one, two = recipe(space, 1), recipe(space, 2)
    record = opened()
    with Journal(tmp_path / "a", header, storage=record) as journal:
        journal.finish([(Result(0, Recipe(), {}, "failed", "for a test"), {})])
        journal.start([Job(1, one), Job(2, two)])
        journal.lose([Job(1, one)], "its worker died", blame=True)
        journal.start([Job(1, one, starts=2)])
        journal.finish([(Result(2, two, {}, "stopped", "too slow"), {"generation": 3})])
        journal.finish([(Result(0, Recipe(), {}, "failed", "again"), {})])
        before = journal.results, journal.unfinished
    record.close()
    with Journal(tmp_path / "b", header, storage=opened()) as journal:
        assert (journal.results, journal.unfinished) == before
        assert [(u.starts, u.losses) for u in journal.unfinished.values()] == [(2, 1)]
        assert [r.error for r, _ in journal.results] == ["again", "too slow"]
        journal.finish([(Result(1, one, {}, "failed", "third"), {})])
    assert (tmp_path / "a" / "journal.jsonl").read_bytes() in (tmp_path / "b" / "journal.jsonl").read_bytes()


def test_one_process_owns_a_study(opened: Callable[..., StudyRecord]) -> None:
    """A second driver is refused, whatever its folder, and told who has the run; when the first is gone, it may."""
    first = opened()
    with pytest.raises(RunError, match="process .* is running this search"):
        opened()
    assert opened("another").header is None
    first.close()
    assert opened().header is None


def test_a_driver_that_lost_its_lock_writes_nothing_more(
    opened: Callable[..., StudyRecord], header: dict[str, object], space: Space, tmp_path: Path
) -> None:
    """The server ended its connection, as it does when a machine is cut off: another may own the run by now."""
    record, other = opened(), opened("other")
    with Journal(tmp_path / "a", header, storage=record) as journal:
        journal.start([Job(1, recipe(space, 1))])
        ends = text("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND pid <> :own")
        own = other._lock.execute(text("SELECT pg_backend_pid()")).scalar()
        other._lock.execute(ends, {"own": own})
        with pytest.raises(RunError, match="the start of trial 2 can't be recorded"):
            journal.start([Job(2, recipe(space, 2))])
        assert [u.number for u in journal.unfinished.values()] == [1]
    with Journal(tmp_path / "b", header, storage=opened()) as journal:
        assert [u.number for u in journal.unfinished.values()] == [1]


def test_a_server_that_dies_ends_the_run_and_it_goes_on(
    task: Task, space: Space, server: Server, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason is said in a sentence; when the server is back, nothing that was reported is missing or repeated."""
    recorded: list[Result] = []
    start = Journal.start

    def then_dies(self: Journal, jobs: list[Job]) -> None:
        start(self, jobs)
        if not recorded and len(self.results) == 3:
            recorded.extend(r for r, _ in self.results)
            server.stop()

    monkeypatch.setattr(Journal, "start", then_dies)
    with pytest.raises(RunError, match=r"study 'dies': .* can't be recorded .*resume when the database is there"):
        run(task, space, tmp_path / "dies", storage=address)
    with pytest.raises(RunError, match="can't be used .*Check the address"):
        run(task, space, tmp_path / "dies", storage=address, existing="resume")
    server.start()
    front = run(task, space, tmp_path / "dies", storage=address, existing="resume")
    assert [r.to_json() for r in front.results[:3]] == [r.to_json() for r in recorded[:3]]
    assert sorted(r.number for r in front.results) == list(range(6))


def test_what_belongs_to_others_is_left_alone(
    task: Task, space: Space, address: str, tmp_path: Path, opened: Callable[..., StudyRecord]
) -> None:
    """A study of one's own, a run of other settings, and a run of that name that wasn't asked for are refused."""
    url = address.replace("postgresql:", "postgresql+psycopg:")
    optuna.create_study(study_name="theirs", storage=url).add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(RunError, match="none of paretopress"):
        run(task, space, tmp_path / "theirs", storage=address)
    run(task, space, tmp_path / "taken", storage=address, budget=2)
    with pytest.raises(RunError, match="holds a run already"):
        run(task, space, tmp_path / "elsewhere" / "taken", storage=address)
    smaller = Space.from_task(task, {"integer": {"bits": [8]}})
    with pytest.raises(RunError, match="search space"):
        run(task, smaller, tmp_path / "taken", storage=address, existing="resume")
    with pytest.raises(RunError, match="there is no run to resume"):
        run(task, space, tmp_path / "nowhere", storage=address, existing="resume")
    with pytest.raises(RunError, match="is a copy"):
        run(task, space, tmp_path / "taken", existing="resume")
    run(task, space, tmp_path / "here", budget=2)
    with pytest.raises(RunError, match="there is no run to resume"):
        run(task, space, tmp_path / "here", storage=address, existing="resume")
    assert len(run(task, space, tmp_path / "taken", storage=address, existing="fresh", budget=3).results) == 3
    assert len(read(tmp_path / "taken")[1].results) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        "sqlite:///run.db",
        "postgresql://host",
        "postgres://u@h/d",
        "host:5432",
        5,
        "postgresql://u:pw@h:p/",
        "postgresql://u:pw@h:port/d",
    ],
)
def test_an_address_that_is_none_is_refused_at_once(task: Task, space: Space, tmp_path: Path, wrong: object) -> None:
    """The message says what one looks like, and shows no password."""
    with pytest.raises(SettingError, match="must be the address of a PostgreSQL database") as caught:
        run(task, space, tmp_path / "never", storage=wrong)
    assert "pw@" not in str(caught.value)
    assert not (tmp_path / "never").exists()


def test_passwords_are_not_written_down(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run folder may be shown to anybody: it is resumed with the password given again, and says so without it."""
    monkeypatch.delenv("PGPASSWORD", raising=False)
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "none"))
    secret = "postgresql://tester:{}@127.0.0.1:{}/postgres".format(PASSWORD.replace(" ", "%20"), server.port)
    file = tmp_path / "secret.yaml"
    file.write_text(
        f"task: paretopress.search.examples.digits:task\ntechniques: {{integer: {{bits: [8, 4]}}}}\nsampler: random\n"
        f"executor: local\nbudget: {{trials: 2}}\nstorage: '{secret}'\n"
    )
    main_ok(["search", str(file)])
    for path in (tmp_path / "secret").rglob("*"):
        if path.is_file():
            assert PASSWORD.split()[0] not in path.read_bytes().decode(errors="replace"), path
    with pytest.raises(SystemExit):
        main(["resume", str(tmp_path / "secret"), "--trials", "3"])
    assert "Give the password by PGPASSWORD" in capsys.readouterr().err
    main_ok(["resume", str(tmp_path / "secret"), "--trials", "3", "--storage", secret])
    shutil.rmtree(tmp_path / "secret")
    main_ok(["resume", str(file), "--trials", "4"])
    assert len(read(tmp_path / "secret")[1].results) == 4


def main_ok(words: list[str]) -> None:
    """Run a command that must succeed."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert not ended.value.code
