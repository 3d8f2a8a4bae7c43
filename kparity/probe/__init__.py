"""The probe: the gates that a backend must pass before it may serve, run in a process of its own."""
