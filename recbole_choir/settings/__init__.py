"""What can be set, and how it is checked: before a file is read or a heavy library is loaded."""
