"""Floor 3: time and durability. Jobs wait, run, survive a killed worker, and can be cancelled."""
