"""From files to rows: tasks, benchmarks, splits, images, prompts, training rows."""
