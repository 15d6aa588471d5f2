"""Own data in minutes on a CPU: results by start, by settings and by the choice of weights."""
