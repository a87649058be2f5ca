"""What crosses between the parties: frames, and the messages around them."""
