"""What own data give in minutes on a CPU: by start, by settings, by the choice of weights."""
