"""Back ends: numpy and one vendor library per file, opened through ``nst_deploy.runtime.backend.open_backend``."""
