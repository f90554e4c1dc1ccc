"""`track=trackio`: Trackio. `TRACKIO_DIR` says where its local database is."""

from dataclasses import dataclass
from typing import ClassVar

from harness import extras
from harness.sinks.facts import Facts


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackioTracker:
    """One run of a project for each record, under the record's run id."""

    project: str = "quant-harness"
    """Name of the project."""
    label: ClassVar[str] = "trackio"

    def check(self) -> None:
        """Check that trackio is installed."""
        with extras.needed("trackio", by="track=trackio"):
            import trackio  # noqa: F401, PLC0415

    def send(self, facts: Facts) -> None:
        """Log the numbers of a record, unless the project has its run."""
        import trackio  # noqa: PLC0415

        # Trackio has no run ids of the caller's: the name is the id.
        name = f"{facts.name} {facts.run_id}"
        if name in _sent(self.project):
            return
        run = trackio.init(
            self.project,
            name=name,
            group=facts.task,
            config={**facts.settings, "verdict": facts.verdict, "record": str(facts.record)},
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )
        run.log(facts.numbers)
        run.finish()


def _sent(project: str) -> set[str]:
    """Return the names of a project's runs in the local database."""
    import trackio  # noqa: PLC0415

    try:
        return {run.name for run in trackio.Api().runs(project)}
    except ValueError:  # no run has been logged to this project
        return set()
