"""`track=mlflow`: MLflow. `MLFLOW_TRACKING_URI` says where its store is."""

from dataclasses import dataclass
from typing import ClassVar

from harness import extras
from harness.sinks.facts import Facts

RUN_ID = "quant_harness.run_id"
"""The tag that finds the MLflow run of a record."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MlflowTracker:
    """One run of an experiment for each record, found by the tag `quant_harness.run_id`."""

    project: str = "quant-harness"
    """Name of the experiment."""
    label: ClassVar[str] = "mlflow"

    def check(self) -> None:
        """Check that mlflow is installed."""
        with extras.needed("mlflow", by="track=mlflow"):
            import mlflow  # noqa: F401, PLC0415

    def send(self, facts: Facts) -> None:
        """Create the run of a record, unless it is there; attach the record."""
        from mlflow import MlflowClient  # noqa: PLC0415
        from mlflow.entities import Metric, Param, RunTag  # noqa: PLC0415

        # A client has no active run, so a run of the caller's own is not touched.
        client = MlflowClient()
        experiment = client.get_experiment_by_name(self.project)
        place = experiment.experiment_id if experiment else client.create_experiment(self.project)
        if client.search_runs([place], f"tags.`{RUN_ID}` = '{facts.run_id}'", max_results=1):
            return
        run = client.create_run(place, run_name=facts.name).info
        client.log_batch(
            run.run_id,
            metrics=[
                Metric(key=name, value=value, timestamp=run.start_time, step=0)
                for name, value in facts.numbers.items()
            ],
            params=[Param(name, value) for name, value in facts.settings.items()],
            tags=[RunTag("mlflow.note.content", facts.verdict)],
        )
        client.log_artifact(run.run_id, str(facts.record))
        # Last: a run that was interrupted before is sent again as a whole.
        client.set_tag(run.run_id, RUN_ID, facts.run_id)
        client.set_terminated(run.run_id)
