"""Train a stage: arguments, trainers, logs, validation."""
