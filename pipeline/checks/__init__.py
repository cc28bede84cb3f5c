"""Every rule of a configuration, told at once."""
