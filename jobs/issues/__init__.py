"""Issue sync: one file, jobs.py."""
