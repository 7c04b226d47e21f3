"""Every back end on this machine, side by side; nst_deploy.cli_bench is its command."""
