"""Numbers from predictions and logs, pure."""
