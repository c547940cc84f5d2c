"""Runs containers by a Docker Engine: its client, what is sent and read, a folder of records, and a keeper."""
