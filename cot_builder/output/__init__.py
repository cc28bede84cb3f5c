"""The files a build writes."""
