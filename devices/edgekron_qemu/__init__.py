"""ARM cores under emulation: see `edgekron_qemu.device`."""
