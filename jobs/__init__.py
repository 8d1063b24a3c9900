"""The application on the job server: one package per system, and the records they share."""
