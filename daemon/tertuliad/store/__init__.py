"""Where the sessions' logs and list rows lie: `base` is the interface, `sqlite` embedded."""
