"""Devices over ssh, such as a Raspberry Pi: see `edgekron_ssh.device`."""
