"""One run: `run` goes from a specification to a record on file.

`on_file` says whether an identical run has been made, by configuration, weights, data, calibration text (`calibrated`) and the source
of a user's own classes (`foreign_code`).
"""
