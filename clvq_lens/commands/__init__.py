"""What the commands of the command line do, and the folder that they leave behind."""
