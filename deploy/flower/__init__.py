"""Flower, Celery's monitor, with the settings that are safe here."""
