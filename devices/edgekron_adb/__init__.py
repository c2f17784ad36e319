"""Android phones over adb: see `edgekron_adb.device`."""
