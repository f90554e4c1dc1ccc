"""`track=wandb`: Weights & Biases. `WANDB_MODE=offline` needs no account."""

from dataclasses import dataclass
from typing import ClassVar

from harness import extras
from harness.sinks.facts import Facts


@dataclass(frozen=True, kw_only=True, slots=True)
class WandbTracker:
    """One run of a project for each record, under the record's run id."""

    project: str = "quant-harness"
    """Name of the project."""
    label: ClassVar[str] = "wandb"

    def check(self) -> None:
        """Check that wandb is installed."""
        with extras.needed("wandb", by="track=wandb"):
            import wandb  # noqa: F401, PLC0415

    def send(self, facts: Facts) -> None:
        """Write the summary of a run, and attach the record."""
        import wandb  # noqa: PLC0415

        with wandb.init(
            project=self.project,
            id=facts.run_id,
            name=facts.name,
            job_type=facts.task,
            notes=facts.verdict,
            config=facts.settings,
            resume="allow",
            reinit="create_new",  # a notebook may have a run of its own
            settings=wandb.Settings(console="off", silent=True),
        ) as run:
            # The summary alone: a measurement has no steps, so it is no curve.
            run.summary.update(facts.numbers)
            run.save(str(facts.record), base_path=str(facts.record.parent), policy="now")
