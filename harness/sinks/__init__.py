"""Where a record goes after it is on file: an experiment tracker, a model card.

A sink gets a record that is complete and on file. It copies facts out of it and never changes it,
so the record stays the truth. Sending a record twice is harmless: the run id names it everywhere.

    facts       what a tracker shows of a record: settings, numbers, sentences
    wandb       `track=wandb`
    mlflow      `track=mlflow`
    trackio     `track=trackio`
    card        `push=OWNER/NAME`: results in the model card of an exported folder
    deliver     sends a record to the sinks of a run

The packages of trackers are extras of the same names.
"""

from harness.sinks.mlflow import MlflowTracker
from harness.sinks.trackio import TrackioTracker
from harness.sinks.wandb import WandbTracker

__all__ = ["MlflowTracker", "TrackioTracker", "WandbTracker"]
