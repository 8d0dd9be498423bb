"""The platform: definitions, jobs, schedules, sensors and the `reel` command."""
