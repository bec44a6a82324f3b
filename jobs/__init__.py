"""The commands: `python -m jobs.NAME CONFIG.yaml [--set a.b=c ...] [--dry-run]`."""
