"""What is measured: the same small applications, written for this project and for each of its peers."""
