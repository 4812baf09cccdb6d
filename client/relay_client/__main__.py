"""Run the command without having installed it: `python -m relay_client`."""

from relay_client.command import main

main(prog_name="relay")
