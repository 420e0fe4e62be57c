"""How much load a version takes, and how fast it answers under it."""
