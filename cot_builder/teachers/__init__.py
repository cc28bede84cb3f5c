"""Teachers: served or offline, their configuration and endpoints."""
