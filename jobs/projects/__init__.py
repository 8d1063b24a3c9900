"""Project sync: one file, jobs.py."""
