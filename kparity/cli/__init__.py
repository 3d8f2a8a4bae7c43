"""The command line. Nothing imports it; it imports what a command needs when that command runs."""
