"""What skelstream asks of the machine that it runs on."""
