"""The sections of the probe; each module has `run(session)`."""
