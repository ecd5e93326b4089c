"""What is measured: the same two applications, written for plain Channels and for this project."""
