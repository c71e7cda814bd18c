"""Counting words on threads, processes or a cluster."""
