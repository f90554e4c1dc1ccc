"""What the machine is and does: its `devices`, `memory`, `load`, `energy`, `settings` and `peaks`; `provenance` writes it into a record."""
