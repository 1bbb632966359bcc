"""What a person can type, one file a group: parses, calls a job, prints its Record."""
